package Bench::Profile; sub run {} 1;

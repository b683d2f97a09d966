package Bench::Plot; sub write {} 1;

extern "C" int GraphCreate() { return 500000; }

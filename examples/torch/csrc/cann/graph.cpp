extern "C" int GraphCreate() { return 0; }

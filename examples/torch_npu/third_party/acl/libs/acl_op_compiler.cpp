extern "C" int aclSetCompileopt(int, const char*) { return 500000; }

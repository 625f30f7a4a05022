extern "C" int GEInitialize() { return 500000; }

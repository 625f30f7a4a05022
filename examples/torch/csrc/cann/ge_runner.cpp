extern "C" int GEInitialize() { return 0; }

#pragma once

extern "C" int HcclGetRankSize(void* communicator, unsigned* size);

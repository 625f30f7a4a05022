include("${CMAKE_CURRENT_LIST_DIR}/Caffe2Targets.cmake")

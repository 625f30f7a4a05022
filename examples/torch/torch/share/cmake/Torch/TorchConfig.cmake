# The CMake package of the stand-in torch. Sets TORCH_FOUND, TORCH_INCLUDE_DIRS, TORCH_LIBRARIES and
# TORCH_CXX_FLAGS, and defines the targets torch, torch_cpu and c10.
get_filename_component(TORCH_INSTALL_PREFIX "${CMAKE_CURRENT_LIST_DIR}/../../../" ABSOLUTE)

set(TORCH_FOUND TRUE)
set(TORCH_INCLUDE_DIRS
  ${TORCH_INSTALL_PREFIX}/include
  ${TORCH_INSTALL_PREFIX}/include/torch/csrc/api/include)

find_package(Caffe2 REQUIRED PATHS ${CMAKE_CURRENT_LIST_DIR}/../Caffe2 NO_DEFAULT_PATH)

set(TORCH_LIBRARIES torch torch_cpu c10)
set(TORCH_CXX_FLAGS "-D_GLIBCXX_USE_CXX11_ABI=@CXX11_ABI@")

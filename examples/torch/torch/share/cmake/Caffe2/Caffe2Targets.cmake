get_filename_component(_IMPORT_PREFIX "${CMAKE_CURRENT_LIST_DIR}/../../../" ABSOLUTE)

foreach(_name c10 torch_cpu torch)
  if(TARGET ${_name})
    return()
  endif()
endforeach()

add_library(c10 SHARED IMPORTED)
set_target_properties(c10 PROPERTIES
  IMPORTED_LOCATION "${_IMPORT_PREFIX}/lib/libc10.so"
  IMPORTED_SONAME "libc10.so"
  INTERFACE_INCLUDE_DIRECTORIES "${_IMPORT_PREFIX}/include"
)

add_library(torch_cpu SHARED IMPORTED)
set_target_properties(torch_cpu PROPERTIES
  IMPORTED_LOCATION "${_IMPORT_PREFIX}/lib/libtorch_cpu.so"
  IMPORTED_SONAME "libtorch_cpu.so"
  INTERFACE_INCLUDE_DIRECTORIES "${_IMPORT_PREFIX}/include"
  INTERFACE_LINK_LIBRARIES "c10"
)

add_library(torch SHARED IMPORTED)
set_target_properties(torch PROPERTIES
  IMPORTED_LOCATION "${_IMPORT_PREFIX}/lib/libtorch.so"
  IMPORTED_SONAME "libtorch.so"
  INTERFACE_INCLUDE_DIRECTORIES "${_IMPORT_PREFIX}/include"
  INTERFACE_LINK_LIBRARIES "torch_cpu;c10"
)

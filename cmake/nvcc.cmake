# Turns DCLS_CUDA off, or stops, where nvcc is too old for the CUDA library. nvcc is asked itself, before CMake makes
# its tests with it: these fail too where it does not know the C++ compiler, and do not say that it is old.
set(DCLS_OLDEST_NVCC 12.0) # the first that compiles C++20

if(CMAKE_CUDA_COMPILER)
  set(nvcc ${CMAKE_CUDA_COMPILER})
elseif(DEFINED ENV{CUDACXX})
  set(nvcc $ENV{CUDACXX})
else()
  find_program(nvcc nvcc HINTS ENV CUDA_PATH PATH_SUFFIXES bin NO_CACHE)
endif()

# Another compiler for CUDA, such as clang, has its own versions.
execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE said ERROR_QUIET)
if(DCLS_CUDA AND said MATCHES "Cuda compilation tools, release ([0-9.]+)"
   AND CMAKE_MATCH_1 VERSION_LESS DCLS_OLDEST_NVCC)
  set(old "${nvcc} is nvcc ${CMAKE_MATCH_1}, and the CUDA library needs nvcc ${DCLS_OLDEST_NVCC} or newer")
  set(newer "The environment variable CUDACXX names another nvcc.")
  if(DCLS_CUDA STREQUAL "AUTO")
    message(WARNING "dcls_ops: ${old}: it is left out. ${newer}")
    set(DCLS_CUDA OFF)
  else()
    message(FATAL_ERROR "dcls_ops: ${old}. ${newer} -DDCLS_CUDA=OFF (of pip: -Ccmake.define.DCLS_CUDA=OFF) builds "
                        "without the CUDA library.")
  endif()
endif()

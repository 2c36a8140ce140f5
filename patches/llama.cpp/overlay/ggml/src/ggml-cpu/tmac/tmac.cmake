# Included once for each variant of the CPU backend (GGML_CPU_NAME). The kernels are compiled only once, without the
# variant's flags: each file has the flags of its own instruction set, and dispatch chooses at run time.

set(TMAC_KERNELS ${CMAKE_CURRENT_SOURCE_DIR}/ggml-cpu/tmac/kernels)
include(${TMAC_KERNELS}/sources.cmake)

set(TMAC_SOURCES ${TMAC_SOURCES_any})
if (GGML_SYSTEM_ARCH STREQUAL "x86" AND CMAKE_SIZEOF_VOID_P EQUAL 8)
    list(APPEND TMAC_SOURCES ${TMAC_SOURCES_x86_64})
elseif (GGML_SYSTEM_ARCH STREQUAL "ARM" AND CMAKE_SIZEOF_VOID_P EQUAL 8)
    list(APPEND TMAC_SOURCES ${TMAC_SOURCES_arm64})
endif()
list(REMOVE_DUPLICATES TMAC_SOURCES)
list(TRANSFORM TMAC_SOURCES PREPEND ${TMAC_KERNELS}/)

if (NOT TARGET tmac-kernels)
    add_library(tmac-kernels OBJECT ${TMAC_SOURCES})
    target_include_directories(tmac-kernels PRIVATE ${TMAC_KERNELS})
    target_compile_options(tmac-kernels PRIVATE ${TMAC_COMMON_FLAGS})
    set_target_properties(tmac-kernels PROPERTIES POSITION_INDEPENDENT_CODE ON)
endif()

list(APPEND GGML_CPU_SOURCES ggml-cpu/tmac/tmac.cpp ggml-cpu/tmac/tmac-attention.cpp ggml-cpu/tmac/tmac-choice.cpp
     ggml-cpu/tmac/tmac-convolution.cpp ggml-cpu/tmac/tmac-delta-net.cpp ggml-cpu/tmac/tmac-obstacle.cpp
     ggml-cpu/tmac/tmac-product.cpp ggml-cpu/tmac/tmac-repacked.cpp ggml-cpu/tmac/tmac-rotation.cpp $<TARGET_OBJECTS:tmac-kernels>)

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

# Variants that are libraries of their own share one with the kernels, which are most of their bytes. On Windows, where
# each symbol of a library would have to be declared as such, every variant has a copy.
if (GGML_BACKEND_DL AND NOT WIN32)
    set(TMAC_KERNELS_KIND SHARED)
else()
    set(TMAC_KERNELS_KIND OBJECT)
endif()

if (NOT TARGET tmac-kernels)
    add_library(tmac-kernels ${TMAC_KERNELS_KIND} ${TMAC_SOURCES})
    target_include_directories(tmac-kernels PRIVATE ${TMAC_KERNELS})
    target_compile_options(tmac-kernels PRIVATE ${TMAC_COMMON_FLAGS})
    set_target_properties(tmac-kernels PROPERTIES POSITION_INDEPENDENT_CODE ON)
    if (TMAC_KERNELS_KIND STREQUAL "SHARED")
        # Beside the variants.
        set_target_properties(tmac-kernels PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${CMAKE_RUNTIME_OUTPUT_DIRECTORY}")
        install(TARGETS tmac-kernels LIBRARY DESTINATION ${CMAKE_INSTALL_BINDIR})
    endif()
endif()

if (TMAC_KERNELS_KIND STREQUAL "SHARED")
    target_link_libraries(${GGML_CPU_NAME} PRIVATE tmac-kernels)
else()
    list(APPEND GGML_CPU_SOURCES $<TARGET_OBJECTS:tmac-kernels>)
endif()

set(TMAC_PLUGIN ggml-cpu/tmac/tmac.cpp ggml-cpu/tmac/tmac-attention.cpp ggml-cpu/tmac/tmac-choice.cpp
    ggml-cpu/tmac/tmac-convolution.cpp ggml-cpu/tmac/tmac-delta-net.cpp ggml-cpu/tmac/tmac-obstacle.cpp
    ggml-cpu/tmac/tmac-product.cpp ggml-cpu/tmac/tmac-repacked.cpp ggml-cpu/tmac/tmac-rotation.cpp)
list(APPEND GGML_CPU_SOURCES ${TMAC_PLUGIN})

# ggml opens every variant to ask whether the CPU can run it. GNU's unique symbols would be those of the first one opened
# for all of them: objects whose functions this CPU may not have.
if (CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    set_source_files_properties(${TMAC_PLUGIN} PROPERTIES COMPILE_OPTIONS -fno-gnu-unique)
endif()

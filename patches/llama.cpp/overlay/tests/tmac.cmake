# Tests of T-MAC in llama.cpp's tree, called from tests/CMakeLists.txt.

llama_build(test-tmac.cpp test-tmac-refused.cpp test-tmac-shared.cpp)
if (NOT BUILD_SHARED_LIBS)
    target_sources(test-tmac PRIVATE test-tmac-rotated.cpp)
    target_compile_definitions(test-tmac PRIVATE TMAC_TEST_ROTATED)
endif()

# The loader under libFuzzer: clang, and the whole tree compiled with -fsanitize=fuzzer-no-link,address.
if (TMAC_FUZZ)
    add_executable(fuzz-tmac-loader fuzz-tmac-loader.cpp)
    target_link_libraries(fuzz-tmac-loader PRIVATE llama)
    target_link_options(fuzz-tmac-loader PRIVATE -fsanitize=fuzzer)
endif()

// The version of the loaded libtorch (versions.rs): tch has no call for it.

#include <algorithm>
#include <cstddef>
#include <string>

#include <ATen/Version.h>

extern "C" {

// Writes libtorch's description of its build to `text`, at most `size` bytes; returns the number of bytes.
size_t spsam_build_settings(char* text, size_t size) {
  try {
    return at::show_config().copy(text, size);
  } catch (...) {
    return 0;
  }
}
}

// Which libtorch is loaded (versions.rs): tch has no call for it.

#include <algorithm>
#include <cstddef>
#include <string>

#include <ATen/Version.h>

extern "C" {

// Writes the text in which libtorch says how it was built to `text`, at most `size` bytes of it; their number.
size_t spsam_build_settings(char* text, size_t size) {
  try {
    return at::show_config().copy(text, size);
  } catch (...) {
    return 0;
  }
}
}

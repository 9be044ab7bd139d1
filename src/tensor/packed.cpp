// Linear layers with weights that oneDNN has packed once (packed.rs). libtorch has both operations for its
// compiler of Python models. No header declares them, so they are looked up by name.

#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>

namespace {

template <typename... Arguments>
at::Tensor call(const c10::OperatorHandle& operation, Arguments&&... arguments) {
  torch::jit::Stack stack;
  torch::jit::push(stack, std::forward<Arguments>(arguments)...);
  operation.callBoxed(&stack);
  return torch::jit::pop(stack).toTensor();
}

c10::OperatorHandle find(const char* name) {
  const auto operation = c10::Dispatcher::singleton().findSchema({name, ""});
  if (!operation) throw std::runtime_error(std::string("this libtorch has no ") + name);
  return *operation;
}

// Why the last failed call of this thread failed.
thread_local std::string reason;

template <typename Work>
at::Tensor* attempt(Work work) {
  try {
    return new at::Tensor(work());
  } catch (const std::exception& error) {
    reason = error.what();
  } catch (...) {
    reason = "unknown";
  }
  return nullptr;
}

}  // namespace

extern "C" const char* spsam_packing_failed() { return reason.c_str(); }

// `weight` [out, in], packed for inputs of `rows` vectors; null on failure.
extern "C" at::Tensor* spsam_pack_weight(const at::Tensor* weight, int64_t rows) {
  return attempt([&] {
    static const auto operation = find("mkldnn::_reorder_linear_weight");
    return call(operation, *weight, std::optional<c10::SymInt>(rows));
  });
}

// x · weightᵀ + bias, or x · weightᵀ without a bias; null on failure.
extern "C" at::Tensor* spsam_packed_linear(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias) {
  return attempt([&] {
    static const auto operation = find("mkldnn::_linear_pointwise");
    const auto optional = bias ? std::optional<at::Tensor>(*bias) : std::nullopt;
    const c10::List<std::optional<at::Scalar>> no_scalars;
    return call(operation, *x, *weight, optional, "none", no_scalars, std::optional<std::string>(""));
  });
}

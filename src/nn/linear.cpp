// Linear layers with weights that oneDNN has laid out once (linear.rs). libtorch has the two operations for its compiler
// of Python models; they are found by name, as no header declares them.

#include <optional>
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

std::optional<c10::OperatorHandle> find(const char* name) {
  return c10::Dispatcher::singleton().findSchema({name, ""});
}

const std::optional<c10::OperatorHandle>& packing() {
  static const auto operation = find("mkldnn::_reorder_linear_weight");
  return operation;
}

const std::optional<c10::OperatorHandle>& linear() {
  static const auto operation = find("mkldnn::_linear_pointwise");
  return operation;
}

}  // namespace

// `weight` [out, in] as it is fastest for inputs of `rows` vectors; null where this libtorch cannot.
extern "C" at::Tensor* spsam_pack_weight(const at::Tensor* weight, int64_t rows) try {
  if (!packing() || !linear()) return nullptr;
  return new at::Tensor(call(*packing(), *weight, std::optional<c10::SymInt>(rows)));
} catch (...) {
  return nullptr;
}

// x · weightᵀ + bias, where there is a bias; null where that failed.
extern "C" at::Tensor* spsam_packed_linear(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* bias) try {
  const auto optional = bias ? std::optional<at::Tensor>(*bias) : std::nullopt;
  const c10::List<std::optional<at::Scalar>> no_scalars;
  return new at::Tensor(call(*linear(), *x, *weight, optional, "none", no_scalars, std::optional<std::string>("")));
} catch (...) {
  return nullptr;
}

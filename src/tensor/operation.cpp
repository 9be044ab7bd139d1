// A node of libtorch's autograd graph whose gradient Rust computes (operation.rs). tch cannot make one.

#include <memory>
#include <mutex>
#include <stdexcept>
#include <utility>

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

namespace {

using torch::autograd::variable_list;

// A gradient function of Rust. `backward` takes the gradient w.r.t. the output and returns a new tensor, the
// gradient w.r.t. the input, or null on failure.
struct Closure {
  void* state;
  at::Tensor* (*backward)(void* state, const at::Tensor* gradient);
  void (*drop)(void* state);
};

struct Operation : torch::autograd::Node {
  ~Operation() override { release_variables(); }

  std::string name() const override { return "SpsamOperation"; }

  variable_list apply(variable_list&& gradients) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!gradients[0].defined()) return {at::Tensor()};
    if (at::GradMode::is_enabled()) throw std::runtime_error("an operation of Rust has no second derivative");
    if (!closure.state) throw std::runtime_error("a second backward pass through an operation whose state was freed");
    const std::unique_ptr<at::Tensor> gradient(closure.backward(closure.state, &gradients[0]));
    if (!gradient) throw std::runtime_error("the gradient of an operation of Rust failed");
    return {*gradient};
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (closure.state) closure.drop(std::exchange(closure.state, nullptr));
  }

  Closure closure{};
};

}  // namespace

// Whether a gradient will flow to the tensor: it requires one, and gradients are enabled.
extern "C" bool spsam_passes_gradient(const at::Tensor* tensor) { return torch::autograd::compute_requires_grad(*tensor); }

// Marks the tensor as changed, so that a backward pass that saved it fails.
extern "C" void spsam_bump_version(const at::Tensor* tensor) { tensor->unsafeGetTensorImpl()->bump_version(); }

// Makes `output` the result of an operation on `input` if a gradient will flow to it. On failure returns false
// and leaves the closure's state with Rust.
extern "C" bool spsam_operation(const at::Tensor* input, const at::Tensor* output, Closure closure) try {
  if (!torch::autograd::compute_requires_grad(*input)) {
    closure.drop(closure.state);
    return true;
  }
  const std::shared_ptr<Operation> node(new Operation, torch::autograd::deleteNode);
  node->set_next_edges(torch::autograd::collect_next_edges(*input));
  torch::autograd::set_history(*output, node);
  node->closure = closure;
  return true;
} catch (...) {
  return false;
}

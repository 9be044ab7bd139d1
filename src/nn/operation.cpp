// An operation of autograd whose gradient Rust computes (operation.rs): what tch has no way to make.

#include <stdexcept>

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

namespace {

using torch::autograd::variable_list;

// What Rust remembers of the operation, and what it does with it. A gradient for the output gives a fresh tensor, the
// gradient for the input, or null where that failed.
struct Rust {
  void* state;
  at::Tensor* (*backward)(void* state, const at::Tensor* gradient);
  void (*drop)(void* state);
};

struct Operation : torch::autograd::Node {
  explicit Operation(Rust rust) : rust(rust) {}
  ~Operation() override { release_variables(); }

  std::string name() const override { return "SpsamOperation"; }

  variable_list apply(variable_list&& gradients) override {
    if (!gradients[0].defined()) return {at::Tensor()};
    if (!rust.state) throw std::runtime_error("backward a second time through an operation that keeps nothing for it");
    const std::unique_ptr<at::Tensor> gradient(rust.backward(rust.state, &gradients[0]));
    if (!gradient) throw std::runtime_error("the gradient of an operation failed");
    return {*gradient};
  }

  void release_variables() override {
    if (rust.state) rust.drop(std::exchange(rust.state, nullptr));
  }

  Rust rust;
};

}  // namespace

// Makes `output` the result of an operation on `input`. Returns whether that worked; the state is Rust's again where not.
extern "C" bool spsam_operation(const at::Tensor* input, const at::Tensor* output, Rust rust) try {
  const std::shared_ptr<Operation> node(new Operation(rust), torch::autograd::deleteNode);
  try {
    node->set_next_edges(torch::autograd::collect_next_edges(*input));
    torch::autograd::set_history(*output, node);
  } catch (...) {
    node->rust.state = nullptr;
    throw;
  }
  return true;
} catch (const std::exception&) {
  return false;
}

//! Operations with a custom gradient, which tch cannot make. The node of the graph is in `operation.cpp`.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use tch::Tensor;

/// Takes the gradient w.r.t. an operation's output, in any layout, and returns the gradient w.r.t. its input.
type Backward = Box<dyn Fn(&Tensor) -> Tensor + Send>;

#[repr(C)]
struct Closure {
    state: *mut c_void,
    backward: extern "C" fn(*mut c_void, *mut c_void) -> *mut c_void,
    drop: extern "C" fn(*mut c_void),
}

unsafe extern "C" {
    fn spsam_passes_gradient(tensor: *const c_void) -> bool;
    fn spsam_bump_version(tensor: *const c_void);
    fn spsam_operation(input: *const c_void, output: *const c_void, closure: Closure) -> bool;
}

extern "C" fn backward(state: *mut c_void, gradient: *mut c_void) -> *mut c_void {
    let run = || {
        let _guard = tch::no_grad_guard();
        // SAFETY: the node passes the state it was given and a tensor that outlives the call.
        let (backward, gradient) =
            unsafe { (&*state.cast::<Backward>(), Tensor::clone_from_ptr(gradient.cast())) };
        let mut result = backward(&gradient);
        let pointer = result.as_mut_ptr();
        // The node takes ownership.
        std::mem::forget(result);
        pointer.cast()
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(ptr::null_mut())
}

extern "C" fn drop_state(state: *mut c_void) {
    // SAFETY: `with_backward` made the state, and the node returns it exactly once.
    drop(unsafe { Box::from_raw(state.cast::<Backward>()) });
}

/// Whether a gradient will flow to `tensor`: it requires one, and gradients are enabled. False within
/// [`tch::no_grad`].
pub fn passes_gradient(tensor: &Tensor) -> bool {
    // SAFETY: a tensor that outlives the call.
    unsafe { spsam_passes_gradient(tensor.as_ptr().cast()) }
}

/// Must be called after changing the values of `tensor` in place without libtorch. A backward pass that saved
/// the tensor then fails instead of using the new values.
pub fn mark_changed(tensor: &Tensor) {
    // SAFETY: as above.
    unsafe { spsam_bump_version(tensor.as_ptr().cast()) }
}

/// Makes `output`, computed from `input` outside the graph, the result of an operation with a custom gradient.
/// `gradient` maps the gradient w.r.t. the output to the gradient w.r.t. the input. What the closure captures
/// lives until the backward pass and must not change before. If no gradient flows to `input`, `output` is
/// returned unchanged. There is no second derivative.
///
/// # Panics
/// If `output` already belongs to a graph, or its type has no gradients.
pub fn with_backward(
    input: &Tensor,
    output: Tensor,
    gradient: impl Fn(&Tensor) -> Tensor + Send + 'static,
) -> Tensor {
    assert!(!output.requires_grad());
    let state: Box<Backward> = Box::new(Box::new(gradient));
    let state = Box::into_raw(state).cast();
    let closure = Closure { state, backward, drop: drop_state };
    // SAFETY: both tensors outlive the call; the node takes ownership of the state, whose type both functions
    // expect.
    let worked = unsafe { spsam_operation(input.as_ptr().cast(), output.as_ptr().cast(), closure) };
    if !worked {
        drop_state(state);
        panic!("an operation of type {:?} cannot be made part of a graph", output.kind());
    }
    output
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn gradients_are_those_of_the_closure_and_it_is_dropped_after_use() {
        let x = Tensor::from_slice(&[1f32, 2.0, 3.0]).set_requires_grad(true);
        let y = &x * 2.0;
        let held = Arc::new(());
        let (saved, in_closure) = (y.detach(), held.clone());
        let z = with_backward(&y, y.detach().square(), move |gradient| {
            let _ = &in_closure;
            gradient * &saved * 2.0
        });
        assert_eq!(Arc::strong_count(&held), 2);
        (&z * Tensor::from_slice(&[1f32, 10.0, 100.0])).sum(Kind::Float).backward();
        // d(4x²)/dx = 8x
        assert_eq!(Vec::<f32>::try_from(x.grad()).unwrap(), [8.0, 160.0, 2400.0]);
        assert_eq!(Arc::strong_count(&held), 1, "dropped after backward");
        assert!(z.sum(Kind::Float).f_backward().is_err(), "a second backward pass has no state");
    }

    #[test]
    fn gradients_pass_to_what_wants_them_while_graphs_are_made() {
        let x = Tensor::zeros([1], (Kind::Float, Device::Cpu));
        assert!(!passes_gradient(&x));
        let x = x.set_requires_grad(true);
        assert!(passes_gradient(&x) && !tch::no_grad(|| passes_gradient(&x)));
    }

    #[test]
    fn a_factor_that_changes_without_libtorch_is_noticed() {
        let weight = Tensor::ones([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let x = Tensor::ones([2], (Kind::Float, Device::Cpu));
        let product = (&weight * &x).sum(Kind::Float);
        mark_changed(&x);
        assert!(product.f_backward().is_err());
    }

    #[test]
    fn a_panic_in_the_gradient_is_an_error_and_an_unused_graph_is_given_up() {
        let x = Tensor::zeros([1], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let y = with_backward(&x, x.detach().copy(), |_| panic!("on purpose"));
        let error = y.f_backward().unwrap_err().to_string();
        assert!(error.contains("gradient of an operation of Rust failed"), "{error}");
        let held = Arc::new(());
        let in_closure = held.clone();
        drop(with_backward(&x, x.detach().copy(), move |gradient| {
            let _ = &in_closure;
            gradient.shallow_clone()
        }));
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn a_kept_graph_works_twice_and_where_no_gradient_passes_there_is_none() {
        let x = Tensor::from_slice(&[1f32]).set_requires_grad(true);
        let y = with_backward(&x, x.detach() * 3.0, |gradient| gradient * 3.0);
        for _ in 0..2 {
            let gradients = Tensor::run_backward(&[&y], &[&x], true, false);
            assert_eq!(gradients[0].double_value(&[0]), 3.0);
        }
        assert!(Tensor::f_run_backward(&[&y], &[&x], true, true).is_err(), "a second derivative");
        let kept = Arc::new(());
        let in_closure = kept.clone();
        let constant = tch::no_grad(|| {
            with_backward(&x, x.detach().copy(), move |gradient| {
                let _ = &in_closure;
                gradient.shallow_clone()
            })
        });
        assert!(!constant.requires_grad() && Arc::strong_count(&kept) == 1);
    }
}

//! The element types of tensors in messages.

use tch::{Device, Kind, Tensor};

use crate::compute::Compute;

/// Element type of a tensor on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireKind {
    /// 32-bit float.
    Float32,
    /// 16-bit float (IEEE), for big tensors if the compute type is no more precise.
    Float16,
    /// bfloat16, between the parts of a network in training. Arrow has no such type: its bits are sent as
    /// UInt16.
    BFloat16,
    /// Labels.
    UInt8,
}

/// Largest finite Float16.
const HALF_MAX: f64 = 65504.0;

impl WireKind {
    /// libtorch's type with the same elements.
    pub fn kind(self) -> Kind {
        match self {
            Self::Float32 => Kind::Float,
            Self::Float16 => Kind::Half,
            Self::BFloat16 => Kind::BFloat16,
            Self::UInt8 => Kind::Uint8,
        }
    }
}

impl Compute {
    /// The type in which big tensors are sent: Float32 for fp32 compute, else Float16, which is half the size.
    pub fn wire(self) -> WireKind {
        if self.kind == Kind::Float { WireKind::Float32 } else { WireKind::Float16 }
    }

    /// The type in which tensors are sent without loss, between the parts of a network in training.
    pub fn exact_wire(self) -> WireKind {
        match self.kind {
            Kind::BFloat16 => WireKind::BFloat16,
            Kind::Half => WireKind::Float16,
            _ => WireKind::Float32,
        }
    }
}

/// A tensor of any shape in its wire type, on the CPU and in C order. Copies only if it is not so already.
/// Values beyond the range of Float16, infinities of wider types included, become ±65504.
pub fn to_wire(tensor: &Tensor, kind: WireKind) -> Tensor {
    let (tensor, kind) = (tensor.detach(), kind.kind());
    if (tensor.kind(), tensor.device()) == (kind, Device::Cpu) && tensor.is_contiguous() {
        return tensor;
    }
    // One pass converts type, order and device.
    let mut wire = Tensor::empty(tensor.size(), (kind, Device::Cpu));
    wire.copy_(&tensor);
    if kind == Kind::Half && tensor.kind() != Kind::Half {
        let _ = wire.clamp_(-HALF_MAX, HALF_MAX);
    }
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_beyond_the_range_of_float16_keep_their_sign_and_stay_finite() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let values = Tensor::from_slice(&[1e6f32, -7e4, 2.0, f32::INFINITY]).to_kind(kind);
            let sent = to_wire(&values, WireKind::Float16).to_kind(Kind::Float);
            assert_eq!(Vec::<f32>::try_from(sent).unwrap(), [65504.0, -65504.0, 2.0, 65504.0]);
        }
        let nan = to_wire(&Tensor::from_slice(&[f32::NAN]), WireKind::Float16);
        assert!(nan.isnan().all().int64_value(&[]) == 1, "NaN must stay NaN");
    }
}

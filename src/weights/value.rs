//! What the pickle of a `.pth` file is made of, and the few of torch's functions that rebuild it
//! (`torch/_utils.py`, `torch/serialization.py`).

use std::cell::RefCell;
use std::rc::Rc;

use tch::Kind;

/// A tensor described by the pickle; its numbers are in another member of the archive.
#[derive(Debug, Clone)]
pub(super) struct TensorRecord {
    pub storage: Storage,
    pub offset: i64,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
}

/// A block of numbers that tensors are views of.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    pub kind: Kind,
    /// Name below `data/` in the archive.
    pub name: String,
    /// Numbers in the block.
    pub len: i64,
}

pub(super) type Items = Rc<RefCell<Vec<Value>>>;
pub(super) type Pairs = Rc<RefCell<Vec<(Value, Value)>>>;

/// An unpickled value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    None,
    Int(i64),
    Text(Rc<str>),
    Tuple(Rc<[Value]>),
    List(Items),
    Dict(Pairs),
    Global(Rc<str>),
    Storage(Rc<Storage>),
    Tensor(Rc<TensorRecord>),
    /// Something that weights do not need.
    Opaque,
}

impl Value {
    /// The value below a text key, where this is a dict that has it (the last one wins, as in Python).
    pub fn get(&self, key: &str) -> Option<Value> {
        let Value::Dict(pairs) = self else { return None };
        let pairs = pairs.borrow();
        let found = pairs.iter().rev().find(|(k, _)| matches!(k, Value::Text(text) if &**text == key));
        found.map(|(_, value)| value.clone())
    }

    fn ints(&self) -> Result<Vec<i64>, String> {
        let int = |value: &Value| match value {
            Value::Int(int) => Ok(*int),
            other => Err(format!("expected an integer, found {other:?}")),
        };
        match self {
            Value::Tuple(items) => items.iter().map(int).collect(),
            Value::List(items) => items.borrow().iter().map(int).collect(),
            other => Err(format!("expected a tuple of integers, found {other:?}")),
        }
    }
}

/// What a persistent id stands for: `("storage", torch.FloatStorage, name, device, length)`.
pub(super) fn storage(id: &Value) -> Result<Storage, String> {
    let Value::Tuple(parts) = id else { return Err("a persistent id that is not a tuple".into()) };
    match &parts[..] {
        [Value::Text(_), Value::Global(class), Value::Text(name), _, Value::Int(len), ..] => {
            Ok(Storage { kind: storage_kind(class)?, name: name.to_string(), len: *len })
        }
        other => Err(format!("a storage described as {other:?}")),
    }
}

fn storage_kind(class: &str) -> Result<Kind, String> {
    Ok(match class {
        "torch.FloatStorage" => Kind::Float,
        "torch.HalfStorage" => Kind::Half,
        "torch.BFloat16Storage" => Kind::BFloat16,
        "torch.DoubleStorage" => Kind::Double,
        "torch.LongStorage" => Kind::Int64,
        "torch.IntStorage" => Kind::Int,
        "torch.ShortStorage" => Kind::Int16,
        "torch.CharStorage" => Kind::Int8,
        "torch.ByteStorage" => Kind::Uint8,
        "torch.BoolStorage" => Kind::Bool,
        other => return Err(format!("tensors of type {other} are not supported")),
    })
}

/// Calls the few functions that weights are made of; any other call gives [`Value::Opaque`].
pub(super) fn reduce(callable: &Value, arguments: &Value) -> Result<Value, String> {
    let (Value::Global(name), Value::Tuple(arguments)) = (callable, arguments) else {
        return Ok(Value::Opaque);
    };
    match (&**name, &arguments[..]) {
        ("collections.OrderedDict", []) => Ok(Value::Dict(Pairs::default())),
        ("torch.Size", [sizes]) => Ok(sizes.clone()),
        (
            "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor",
            [Value::Storage(storage), Value::Int(offset), shape, strides, ..],
        ) => Ok(Value::Tensor(Rc::new(TensorRecord {
            storage: Storage::clone(storage),
            offset: *offset,
            shape: shape.ints()?,
            strides: strides.ints()?,
        }))),
        ("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", [data, ..]) => {
            Ok(data.clone())
        }
        _ => Ok(Value::Opaque),
    }
}

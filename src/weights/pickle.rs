//! Reads the pickle that `torch.save` writes, without running anything (opcodes: CPython `pickletools.py`).
//!
//! Tensors, containers and plain values are rebuilt; whatever else a checkpoint holds (arguments, optimisers)
//! becomes [`Value::Opaque`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::value::{Items, Pairs, Value, reduce, storage};

/// Unpickles one object.
///
/// # Errors
/// A sentence on what is wrong: end too early, opcode or tensor of an unknown type.
pub(super) fn unpickle(bytes: &[u8]) -> Result<Value, String> {
    let mut machine = Machine { rest: bytes, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    loop {
        if let Some(value) = machine.step()? {
            return Ok(value);
        }
    }
}

struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<usize, Value>,
}

impl<'a> Machine<'a> {
    /// Runs one opcode; the finished object at STOP.
    fn step(&mut self) -> Result<Option<Value>, String> {
        let opcode = self.byte()?;
        match opcode {
            b'.' => return self.pop().map(Some),
            0x80 => drop(self.take(1)?), // PROTO
            0x95 => drop(self.take(8)?), // FRAME
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => self.push(self.top()?.clone()),
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Int(1)),
            0x89 => self.push(Value::Int(0)),
            b'K' => self.push_int(1)?,
            b'M' => self.push_int(2)?,
            b'J' => {
                let word = self.little_endian(4)? as u32 as i32;
                self.push(Value::Int(word.into()));
            }
            0x8a => self.long()?,
            b'G' => self.skip_opaque(8)?,
            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            b'B' | b'T' => self.bytes(4)?,
            b'C' | b'U' => self.bytes(1)?,
            0x8e | 0x96 => self.bytes(8)?,
            b']' => self.push(Value::List(Items::default())),
            b'}' => self.push(Value::Dict(Pairs::default())),
            0x8f => self.push(Value::Opaque), // EMPTY_SET
            b')' => self.push_tuple(Vec::new()),
            b't' => {
                let items = self.pop_to_mark()?;
                self.push_tuple(items);
            }
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let start = self.stack.len().checked_sub(count).ok_or("stack underflow")?;
                let items = self.stack.split_off(start);
                self.push_tuple(items);
            }
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Value::List(Rc::new(RefCell::new(items))));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(items)?;
            }
            0x90 => drop(self.pop_to_mark()?), // ADDITEMS to a set
            b'q' => self.memoize(1)?,
            b'r' => self.memoize(4)?,
            0x94 => drop(self.memo.insert(self.memo.len(), self.top()?.clone())),
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(format!("{module}.{name}").into()));
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => {
                    self.push(Value::Global(format!("{module}.{name}").into()));
                }
                _ => return Err("a global without a name".into()),
            },
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Storage(Rc::new(storage(&id)?)));
            }
            b'R' => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                self.push(reduce(&callable, &arguments)?);
            }
            0x81 => {
                let _ = (self.pop()?, self.pop()?);
                self.push(Value::Opaque);
            }
            0x92 => {
                let _ = (self.pop()?, self.pop()?, self.pop()?);
                self.push(Value::Opaque);
            }
            b'b' => drop(self.pop()?), // BUILD: attributes of an object, such as a state dict's `_metadata`
            other => return Err(format!("unknown pickle opcode 0x{other:02x}")),
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("the pickle ends too early")?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn little_endian(&mut self, width: usize) -> Result<u64, String> {
        Ok(self.take(width)?.iter().rev().fold(0, |value, &byte| (value << 8) | u64::from(byte)))
    }

    fn length(&mut self, width: usize) -> Result<usize, String> {
        usize::try_from(self.little_endian(width)?).map_err(|e| e.to_string())
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let end = self.rest.iter().position(|&b| b == b'\n').ok_or("the pickle ends too early")?;
        let line = self.take(end)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|e| e.to_string())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn push_tuple(&mut self, items: Vec<Value>) {
        self.push(Value::Tuple(items.into()));
    }

    fn push_int(&mut self, width: usize) -> Result<(), String> {
        let value = self.little_endian(width)? as i64;
        self.push(Value::Int(value));
        Ok(())
    }

    /// LONG1: two's complement, as few bytes as needed.
    fn long(&mut self) -> Result<(), String> {
        let width = self.length(1)?;
        if width > 8 {
            return self.skip_opaque(width);
        }
        let shift = 64 - 8 * width as u32;
        let raw = self.little_endian(width)?;
        self.push(Value::Int(if width == 0 { 0 } else { ((raw << shift) as i64) >> shift }));
        Ok(())
    }

    fn text(&mut self, width: usize) -> Result<(), String> {
        let length = self.length(width)?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|e| e.to_string())?;
        self.push(Value::Text(text.into()));
        Ok(())
    }

    fn bytes(&mut self, width: usize) -> Result<(), String> {
        let length = self.length(width)?;
        self.skip_opaque(length)
    }

    fn skip_opaque(&mut self, length: usize) -> Result<(), String> {
        self.take(length)?;
        self.push(Value::Opaque);
        Ok(())
    }

    fn top(&self) -> Result<&Value, String> {
        self.stack.last().ok_or_else(|| "stack underflow".into())
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(|| "stack underflow".into())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or("a mark is missing")?))
    }

    fn append(&mut self, items: Vec<Value>) -> Result<(), String> {
        if let Value::List(list) = self.top()? {
            list.borrow_mut().extend(items);
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Value>) -> Result<(), String> {
        if let Value::Dict(dict) = self.top()? {
            let mut items = items.into_iter();
            while let (Some(key), Some(value)) = (items.next(), items.next()) {
                dict.borrow_mut().push((key, value));
            }
        }
        Ok(())
    }

    fn memoize(&mut self, width: usize) -> Result<(), String> {
        let index = self.length(width)?;
        self.memo.insert(index, self.top()?.clone());
        Ok(())
    }

    fn recall(&mut self, width: usize) -> Result<(), String> {
        let index = self.length(width)?;
        let value = self.memo.get(&index).ok_or("a memo entry is missing")?.clone();
        self.push(value);
        Ok(())
    }
}

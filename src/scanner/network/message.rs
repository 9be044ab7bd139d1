//! Messages out of the values of P-DATA PDUs (PS3.8 Annex E): a command, in any number of fragments, then its data set.

use dicom_ul::pdu::{PDataValue, PDataValueType};

use super::command::Command;

/// Longest command, bytes; those of C-STORE have about 300.
const LONGEST_COMMAND: usize = 16 << 10;

/// What a value of a PDU adds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A part of a command.
    Nothing,
    /// A command is complete. Its data set follows, if it has one.
    Command { context: u8, command: Command },
    /// Bytes of the data set.
    Data { bytes: Vec<u8>, is_last: bool },
}

/// Joins fragments.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// Presentation context of the message that has begun.
    context: Option<u8>,
    command: Vec<u8>,
    in_data: bool,
}

impl Assembler {
    /// Takes the next value.
    ///
    /// # Errors
    /// How it violates the protocol.
    pub fn take(&mut self, value: PDataValue) -> Result<Part, &'static str> {
        let context = value.presentation_context_id;
        if *self.context.get_or_insert(context) != context {
            return Err("a message changes its presentation context");
        }
        match (value.value_type, self.in_data) {
            (PDataValueType::Command, true) => Err("a command within a data set"),
            (PDataValueType::Data, false) => Err("a data set without a command"),
            (PDataValueType::Data, true) => {
                if value.is_last {
                    *self = Self::default();
                }
                Ok(Part::Data { bytes: value.data, is_last: value.is_last })
            }
            (PDataValueType::Command, false) => self.add_to_command(context, &value.data, value.is_last),
        }
    }

    /// Whether a message has begun and is not complete.
    pub fn is_within(&self) -> bool {
        self.context.is_some()
    }

    fn add_to_command(&mut self, context: u8, bytes: &[u8], is_last: bool) -> Result<Part, &'static str> {
        if self.command.len() + bytes.len() > LONGEST_COMMAND {
            return Err("a command that is too long");
        }
        self.command.extend(bytes);
        if !is_last {
            return Ok(Part::Nothing);
        }
        let command = Command::parse(&self.command).ok_or("a command that cannot be read")?;
        *self = Self::default();
        if command.has_data {
            (self.context, self.in_data) = (Some(context), true);
        }
        Ok(Part::Command { context, command })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A C-ECHO-RQ, or a C-STORE-RQ.
    fn command(has_data: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (element, value) in [
            (0x100u16, if has_data { 1u16 } else { 0x30 }),
            (0x110, 9),
            (0x800, if has_data { 1 } else { 0x101 }),
        ] {
            bytes.extend([0, 0]);
            bytes.extend(element.to_le_bytes());
            bytes.extend(2u32.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        bytes
    }

    fn value(context: u8, value_type: PDataValueType, data: &[u8], is_last: bool) -> PDataValue {
        PDataValue { presentation_context_id: context, value_type, is_last, data: data.to_vec() }
    }

    use PDataValueType::{Command as C, Data as D};

    #[test]
    fn fragments_of_commands_are_joined() {
        let (bytes, mut assembler) = (command(true), Assembler::default());
        for byte in &bytes[..bytes.len() - 1] {
            assert_eq!(assembler.take(value(3, C, &[*byte], false)), Ok(Part::Nothing));
        }
        let part = assembler.take(value(3, C, &bytes[bytes.len() - 1..], true)).unwrap();
        assert!(matches!(part, Part::Command { context: 3, command } if command.message_id == 9));
        assert!(assembler.is_within());
        let data = assembler.take(value(3, D, b"ab", true)).unwrap();
        assert_eq!(data, Part::Data { bytes: b"ab".to_vec(), is_last: true });
        assert!(!assembler.is_within());
        assert!(matches!(assembler.take(value(5, C, &command(false), true)), Ok(Part::Command { .. })));
        assert!(!assembler.is_within());
    }

    #[test]
    fn violations_are_named() {
        let after = |values: &[PDataValue], last: PDataValue| {
            let mut assembler = Assembler::default();
            values.iter().for_each(|value| drop(assembler.take(value.clone()).unwrap()));
            assembler.take(last).unwrap_err()
        };
        let store = value(1, C, &command(true), true);
        assert_eq!(after(&[], value(1, D, b"a", true)), "a data set without a command");
        assert_eq!(after(std::slice::from_ref(&store), store.clone()), "a command within a data set");
        assert_eq!(after(&[store], value(3, D, b"a", true)), "a message changes its presentation context");
        assert_eq!(after(&[], value(1, C, b"garbage", true)), "a command that cannot be read");
        assert_eq!(after(&[], value(1, C, &[0; 17 << 10], false)), "a command that is too long");
    }
}

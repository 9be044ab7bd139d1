//! What a message is: the number at its beginning.

/// Kinds of messages that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// Name of a configuration of the server, 1024 bytes.
    ConfigFile,
    /// A configuration as text.
    ConfigText,
    /// Description of the scan, XML.
    Header,
    /// No message follows.
    Close,
    Text,
    /// K-space samples.
    Acquisition,
    Image,
    /// Physiological signals.
    Waveform,
}

impl MessageKind {
    /// The kind with this number.
    ///
    /// # Errors
    /// A number that is not read: nobody knows where such a message ends.
    pub fn of(id: u16) -> Result<Self, String> {
        Ok(match id {
            1 => Self::ConfigFile,
            2 => Self::ConfigText,
            3 => Self::Header,
            4 => Self::Close,
            5 => Self::Text,
            1008 => Self::Acquisition,
            1022 => Self::Image,
            1026 => Self::Waveform,
            1002..=1007 | 1009..=1021 | 1023 => return Err(format!("message {id}, which is deprecated")),
            1030 => return Err("an array (message 1030), which is not supported".into()),
            _ => return Err(format!("message {id}, which is unknown")),
        })
    }

    /// The number of this kind.
    pub fn id(self) -> u16 {
        match self {
            Self::ConfigFile => 1,
            Self::ConfigText => 2,
            Self::Header => 3,
            Self::Close => 4,
            Self::Text => 5,
            Self::Acquisition => 1008,
            Self::Image => 1022,
            Self::Waveform => 1026,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_one_number_and_others_are_refused_by_it() {
        let known: Vec<u16> = (0..=u16::MAX).filter(|&id| MessageKind::of(id).is_ok()).collect();
        assert_eq!(known, [1, 2, 3, 4, 5, 1008, 1022, 1026]);
        assert!(known.iter().all(|&id| MessageKind::of(id).unwrap().id() == id));
        assert!(MessageKind::of(1009).unwrap_err().contains("1009, which is deprecated"));
        assert!(MessageKind::of(47).unwrap_err().contains("47, which is unknown"));
    }
}

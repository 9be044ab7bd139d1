//! An association as its requester: what is proposed, and instances one after the other.

use std::collections::BTreeSet;
use std::io::Read;
use std::time::Duration;

use dicom_dictionary_std::uids;
use dicom_ul::association::Association as _;
use dicom_ul::association::AsyncClientAssociation;
use dicom_ul::association::client::ClientAssociationOptions;
use dicom_ul::pdu::{AbortRQSource, PDV_HEADER_SIZE, PDataValue, PDataValueType, Pdu};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::answer::{Answer, LONGEST_COMMAND, StoreStatus, parse, request};
use super::destination::{Destination, TimeLimits};
use super::error::SendError;
use super::instance::Instance;
use crate::dicom::is_native;

/// Most presentation contexts of an association: their ids are the odd numbers below 256 (PS3.8 9.3.2.2).
const MOST_CONTEXTS: usize = 128;
/// Longest PDU that is sent, bytes, even if the receiver takes longer ones.
const LONGEST_PDU: u32 = 128 << 10;
/// Shortest fragment of a data set that is worth sending, bytes.
const SHORTEST_FRAGMENT: u32 = 2;

/// A SOP class in a transfer syntax, by their UIDs: what an association must be able to carry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Context {
    pub class_uid: String,
    pub transfer_syntax: String,
}

impl From<&Instance> for Context {
    fn from(instance: &Instance) -> Self {
        Self { class_uid: instance.class_uid().into(), transfer_syntax: instance.transfer_syntax().into() }
    }
}

/// What an association for these instances must be able to carry.
pub fn contexts<'a>(instances: impl IntoIterator<Item = &'a Instance>) -> BTreeSet<Context> {
    instances.into_iter().map(Context::from).collect()
}

/// An association with a receiver, for any number of instances. It is not released when it is dropped: the connection
/// is closed.
pub struct Association {
    inner: AsyncClientAssociation<TcpStream>,
    address: String,
    /// Time for an answer.
    patience: Duration,
    /// Bytes of a data set in a PDU.
    fragment: usize,
    last_id: u16,
}

impl Association {
    /// Connects and proposes these contexts, each in its own transfer syntax and, if its pixels are not compressed, in
    /// Implicit VR Little Endian, the default of the standard (PS3.5 10.1).
    ///
    /// # Errors
    /// Any but [`SendError::File`] and [`SendError::Instance`].
    pub async fn open(
        to: &Destination,
        limits: &TimeLimits,
        contexts: &BTreeSet<Context>,
    ) -> Result<Self, SendError> {
        let address = to.address.clone();
        let mut options = ClientAssociationOptions::new()
            .calling_ae_title(&*to.calling_title)
            .called_ae_title(&*to.called_title)
            .connection_timeout(limits.connect)
            .write_timeout(limits.take)
            .read_timeout(limits.answer);
        for Context { class_uid, transfer_syntax } in proposal(contexts)? {
            options = options.with_presentation_context(class_uid, vec![transfer_syntax]);
        }
        let established = options.establish_async(&*address).await;
        let mut inner = established.map_err(|error| SendError::of(error, &address))?;
        // A command is a small packet of its own, which must not wait for the answer to another.
        let _ = inner.inner_stream().set_nodelay(true);
        let longest = inner.peer_max_pdu_length().min(LONGEST_PDU);
        // Of an even length (PS3.8 Annex E.1).
        let fragment = longest.saturating_sub(PDV_HEADER_SIZE) & !1;
        if fragment < SHORTEST_FRAGMENT {
            return Err(SendError::broken(&address, format!("it takes PDUs of {longest} bytes only")));
        }
        Ok(Self { inner, address, patience: limits.answer, fragment: fragment as usize, last_id: 0 })
    }

    /// Sends an instance and waits for the answer. If the receiver has accepted no context for it, the answer is
    /// [`StoreStatus::CLASS_NOT_SUPPORTED`], and nothing is sent.
    ///
    /// # Errors
    /// Any; the association has ended with it.
    pub async fn store(&mut self, instance: &Instance) -> Result<Answer, SendError> {
        let Some((context, is_stored_so)) = self.context(instance) else {
            let comment = "the receiver has not accepted it in this transfer syntax".into();
            return Ok(Answer { status: StoreStatus::CLASS_NOT_SUPPORTED, comment });
        };
        let message_id = self.command(context, instance).await?;
        let (data_set, length) =
            if is_stored_so { instance.data_set()? } else { instance.implicit_data_set()? };
        self.data_set(context, data_set, length, length, instance).await?;
        match timeout(self.patience, self.answer(message_id)).await {
            Ok(answer) => answer,
            Err(_) => Err(SendError::TimedOut { address: self.address.clone() }),
        }
    }

    /// Sends half of an instance and closes the connection, as a sender that has crashed: a receiver must forget it.
    ///
    /// # Errors
    /// As [`Association::store`].
    pub async fn break_off(mut self, instance: &Instance) -> Result<(), SendError> {
        let Some((context, _)) = self.context(instance) else { return Ok(()) };
        self.command(context, instance).await?;
        let (data_set, length) = instance.data_set()?;
        self.data_set(context, data_set, length / 2, length, instance).await
    }

    /// Ends the association after the last answer. What was answered is stored, whatever happens now: a receiver that
    /// does not answer is only left.
    pub async fn release(self) {
        if let Err(error) = self.inner.release().await {
            tracing::debug!("{}: release: {}", self.address, SendError::of(error, &self.address));
        }
    }

    /// Ends the association at once and tells the receiver so.
    pub async fn abort(mut self) {
        let abort = Pdu::AbortRQ { source: AbortRQSource::ServiceUser };
        let _ = self.inner.send(&abort).await; // it may be gone
    }

    /// The id of the context for an instance, and whether that is its own transfer syntax.
    fn context(&self, instance: &Instance) -> Option<(u8, bool)> {
        let accepted = |transfer_syntax: &str| {
            let mut contexts = self.inner.presentation_contexts().iter();
            let plain = |uid: &str| uid.trim_end_matches(['\0', ' ']) == transfer_syntax;
            let found = contexts.find(|context| {
                context.abstract_syntax == instance.class_uid() && plain(&context.transfer_syntax)
            });
            found.map(|context| context.id)
        };
        let own = accepted(instance.transfer_syntax()).map(|id| (id, true));
        own.or_else(|| {
            let implicit = || accepted(uids::IMPLICIT_VR_LITTLE_ENDIAN);
            instance.is_native().then(implicit).flatten().map(|id| (id, false))
        })
    }

    /// Sends the command of a C-STORE; its message id.
    async fn command(&mut self, context: u8, instance: &Instance) -> Result<u16, SendError> {
        instance.check()?;
        self.last_id = self.last_id.wrapping_add(1);
        let bytes = request(self.last_id, instance.class_uid(), instance.uid());
        let mut left = bytes.as_slice();
        while !left.is_empty() {
            let (now, later) = left.split_at(left.len().min(self.fragment));
            self.value(context, PDataValueType::Command, now.to_vec(), later.is_empty()).await?;
            left = later;
        }
        Ok(self.last_id)
    }

    /// Sends the first `count` bytes of a data set of `length` bytes. Reading blocks: it is a fragment of a local file.
    async fn data_set(
        &mut self,
        context: u8,
        mut source: Box<dyn Read + Send>,
        count: u64,
        length: u64,
        instance: &Instance,
    ) -> Result<(), SendError> {
        let mut sent = 0;
        while sent < count {
            let mut bytes = vec![0; (count - sent).min(self.fragment as u64) as usize];
            source.read_exact(&mut bytes).map_err(|error| SendError::Instance {
                name: instance.name().into(),
                reason: format!("it changes while it is sent ({error})"),
            })?;
            sent += bytes.len() as u64;
            self.value(context, PDataValueType::Data, bytes, sent == length).await?;
        }
        Ok(())
    }

    async fn value(
        &mut self,
        presentation_context_id: u8,
        value_type: PDataValueType,
        data: Vec<u8>,
        is_last: bool,
    ) -> Result<(), SendError> {
        let value = PDataValue { presentation_context_id, value_type, is_last, data };
        let sent = self.inner.send(&Pdu::PData { data: vec![value] }).await;
        sent.map_err(|error| SendError::of(error, &self.address))
    }

    /// The answer to a message, in any number of fragments.
    async fn answer(&mut self, message_id: u16) -> Result<Answer, SendError> {
        let mut command = Vec::new();
        loop {
            // DCMTK and programs on it send an answer in two packets, and the second only when the first is confirmed,
            // which the system would put off for 40 ms.
            let _ = self.inner.inner_stream().set_quickack(true);
            let pdu = self.inner.receive().await.map_err(|error| SendError::of(error, &self.address))?;
            let broken = |reason: &str| SendError::broken(&self.address, reason);
            let values = match pdu {
                Pdu::PData { data } => data,
                Pdu::AbortRQ { .. } => return Err(SendError::Aborted { address: self.address.clone() }),
                _ => return Err(broken("an unexpected PDU instead of an answer")),
            };
            for value in values {
                if value.value_type != PDataValueType::Command {
                    return Err(broken("a data set instead of an answer"));
                } else if command.len() + value.data.len() > LONGEST_COMMAND {
                    return Err(broken("an answer that is too long"));
                }
                command.extend(value.data);
                if value.is_last {
                    return parse(&command, message_id).map_err(broken);
                }
            }
        }
    }
}

/// The contexts, and those in the default transfer syntax as far as there is room for them.
fn proposal(contexts: &BTreeSet<Context>) -> Result<Vec<Context>, SendError> {
    if contexts.is_empty() || contexts.len() > MOST_CONTEXTS {
        return Err(SendError::Contexts { count: contexts.len() });
    }
    let native = contexts.iter().filter(|context| is_native(&context.transfer_syntax));
    let default: BTreeSet<Context> = native
        .map(|context| Context {
            class_uid: context.class_uid.clone(),
            transfer_syntax: uids::IMPLICIT_VR_LITTLE_ENDIAN.into(),
        })
        .collect();
    let further = default.difference(contexts).cloned();
    Ok(contexts.iter().cloned().chain(further).take(MOST_CONTEXTS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(class_uid: &str, transfer_syntax: &str) -> Context {
        Context { class_uid: class_uid.into(), transfer_syntax: transfer_syntax.into() }
    }

    #[test]
    fn what_is_not_compressed_is_proposed_in_the_default_syntax_too() {
        let (implicit, explicit) = (uids::IMPLICIT_VR_LITTLE_ENDIAN, uids::EXPLICIT_VR_LITTLE_ENDIAN);
        let wanted = [("1", explicit), ("1", implicit), ("2", explicit), ("3", uids::RLE_LOSSLESS)];
        let wanted = wanted.map(|(class, syntax)| context(class, syntax)).into_iter().collect();
        let mut proposed = proposal(&wanted).unwrap();
        proposed.sort();
        let expected =
            [("1", implicit), ("1", explicit), ("2", implicit), ("2", explicit), ("3", uids::RLE_LOSSLESS)];
        let mut expected = expected.map(|(class, syntax)| context(class, syntax));
        expected.sort();
        assert_eq!(proposed, expected);
    }

    #[test]
    fn an_association_has_at_most_128_contexts() {
        let many = |count: usize| {
            (0..count).map(|class| context(&class.to_string(), uids::EXPLICIT_VR_LITTLE_ENDIAN)).collect()
        };
        assert_eq!(proposal(&many(1)).unwrap().len(), 2);
        assert_eq!(proposal(&many(100)).unwrap().len(), 128);
        assert!(matches!(proposal(&many(129)), Err(SendError::Contexts { count: 129 })));
        assert!(matches!(proposal(&many(0)), Err(SendError::Contexts { count: 0 })));
    }
}

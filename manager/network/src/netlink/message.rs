//! The bytes of netlink messages (netlink(7)).
//!
//! ```text
//! ┌ nlmsghdr: length u32, kind u16, flags u16, sequence u32, port u32 ┐
//! │ family's own fixed header                                         │
//! │ ┌ attribute: length u16, kind u16 ┐                               │
//! │ │ payload, padded to four bytes   │ … attributes nest             │
//! └───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Integers are in host order unless a family says otherwise; nf_tables does, hence `be32`.

/// Bytes of a message's header.
pub(crate) const HEADER_BYTES: usize = 16;

/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;
/// Bits of an attribute's kind that are the kind.
const KIND_MASK: u16 = 0x3fff;

/// A message under construction.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Starts a message with the family's fixed header.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// Appends one attribute.
    pub(crate) fn attr(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(payload);
        self.close(start);
        self
    }

    /// Appends a string, with the NUL that the kernel wants.
    pub(crate) fn string(&mut self, kind: u16, value: &str) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start);
        self
    }

    /// Appends an integer in host order.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends an integer in network order, as nf_tables has them.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends an attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.open(kind | NESTED);
        fill(self);
        self.close(start);
        self
    }

    /// Appends raw bytes, such as the fixed header that precedes the attributes of a nest.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Fills length and sequence in.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    /// Writes the attribute's length. One that does not fit is written as zero, which the kernel
    /// refuses; callers split long lists (see `nft::batch`).
    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(0);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// One message of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    /// What it is.
    pub(crate) kind: u16,
    /// Which request it answers.
    pub(crate) sequence: u32,
    /// Whose request it answers, or who caused what it announces.
    pub(crate) port: u32,
    /// What follows the header.
    pub(crate) body: &'a [u8],
}

/// Splits what one `recv` returned; stops at the first piece that is cut.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        if length < HEADER_BYTES || length > bytes.len() {
            return None;
        }
        let message = Received {
            kind: u16_at(bytes, 4)?,
            sequence: u32_at(bytes, 8)?,
            port: u32_at(bytes, 12)?,
            body: &bytes[HEADER_BYTES..length],
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

/// Splits attributes; stops at the first that is cut.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        if length < 4 || length > bytes.len() {
            return None;
        }
        let kind = u16_at(bytes, 2)? & KIND_MASK;
        let payload = &bytes[4..length];
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, payload))
    })
}

/// Reads an integer in host order.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

/// Reads an integer in host order.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

/// Reads a string that ends with NUL or with the attribute.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_comes_back_as_it_was_written() {
        let mut message = Message::new(16, 5, &[1, 2, 3, 4]);
        message.string(3, "eth0").nest(18, |inner| {
            inner.attr(1, &[7]).be32(2, 1);
        });

        let bytes = message.finish(42);

        let received: Vec<_> = messages(&bytes).collect();
        assert_eq!(received.len(), 1);
        assert_eq!((received[0].kind, received[0].sequence), (16, 42));
        let attrs: Vec<_> = attributes(&received[0].body[4..]).collect();
        assert_eq!(attrs[0], (3, &b"eth0\0"[..]));
        assert_eq!(attrs[1].0, 18);
        let inner: Vec<_> = attributes(attrs[1].1).collect();
        assert_eq!(inner, vec![(1, &[7_u8][..]), (2, &[0, 0, 0, 1][..])]);
    }

    proptest! {
        #[test]
        fn foreign_bytes_end_the_iteration_and_nothing_else(bytes: Vec<u8>) {
            let pieces = messages(&bytes).count() + attributes(&bytes).count();

            prop_assert!(pieces <= bytes.len());
        }
    }
}

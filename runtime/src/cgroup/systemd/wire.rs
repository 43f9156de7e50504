//! D-Bus messages as bytes (the D-Bus Specification, “Marshaling”). We write little-endian, and so do
//! all buses on little-endian machines; others are refused.

use super::dbus::{DBusError, Method};

/// The part of the header that tells how long the rest is.
pub(super) const FIXED_BYTES: usize = 16;
const LITTLE_ENDIAN: u8 = b'l';
const VERSION: u8 = 1;
const CALL: u8 = 1;

const FIELD_PATH: u8 = 1;
const FIELD_INTERFACE: u8 = 2;
const FIELD_MEMBER: u8 = 3;
const FIELD_ERROR_NAME: u8 = 4;
const FIELD_REPLY_SERIAL: u8 = 5;
const FIELD_DESTINATION: u8 = 6;
const FIELD_SIGNATURE: u8 = 8;

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageKind {
    Call,
    Return,
    Error,
    Signal,
}

/// A message that arrived.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: MessageKind,
    pub(super) member: Option<String>,
    pub(super) error_name: Option<String>,
    pub(super) reply_serial: Option<u32>,
    pub(super) signature: String,
    pub(super) body: Vec<u8>,
}

/// The arguments of a call.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) signature: &'static str,
    pub(super) bytes: Vec<u8>,
}

impl Body {
    pub(super) fn empty() -> Self {
        Self { signature: "", bytes: Vec::new() }
    }
}

/// A value whose type is told with it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Variant {
    Text(String),
    Bool(bool),
    Byte(u8),
    Short(i16),
    UnsignedShort(u16),
    Int(i32),
    Unsigned(u32),
    Long(i64),
    Number(u64),
    Double(f64),
    Numbers(Vec<u32>),
    Bytes(Vec<u8>),
    Texts(Vec<String>),
}

pub(super) fn malformed(what: &'static str) -> DBusError {
    DBusError::Malformed { what }
}

/// Writes values, each aligned as its type demands.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub(super) fn number(&mut self, number: u32) {
        self.align(4);
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    /// A variant that is a number: its octets are aligned by their count.
    fn plain(&mut self, signature: &str, octets: &[u8]) {
        self.signature(signature);
        self.align(octets.len());
        self.bytes.extend_from_slice(octets);
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.number(value.into());
    }

    /// A string, or the path of an object.
    pub(super) fn string(&mut self, text: &str) {
        self.number(length_of(text.as_bytes()));
        self.bytes.extend_from_slice(text.as_bytes());
        self.byte(0);
    }

    fn signature(&mut self, signature: &str) {
        // Ours have a few letters.
        self.byte(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.bytes.extend_from_slice(signature.as_bytes());
        self.byte(0);
    }

    /// An array, whose length is known once its elements are written.
    pub(super) fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Self)) {
        self.number(0);
        let at = self.bytes.len();
        // The length does not count the padding before the first element.
        self.align(alignment);
        let start = self.bytes.len();
        elements(self);
        let length = length_of(&self.bytes[start..]).to_le_bytes();
        self.bytes[at - length.len()..at].copy_from_slice(&length);
    }

    pub(super) fn structure(&mut self) {
        self.align(8);
    }

    pub(super) fn variant(&mut self, value: &Variant) {
        match value {
            Variant::Text(text) => {
                self.signature("s");
                self.string(text);
            }
            Variant::Bool(value) => {
                self.signature("b");
                self.bool(*value);
            }
            Variant::Byte(byte) => {
                self.signature("y");
                self.byte(*byte);
            }
            Variant::Short(number) => self.plain("n", &number.to_le_bytes()),
            Variant::UnsignedShort(number) => self.plain("q", &number.to_le_bytes()),
            Variant::Int(number) => self.plain("i", &number.to_le_bytes()),
            Variant::Unsigned(number) => self.plain("u", &number.to_le_bytes()),
            Variant::Long(number) => self.plain("x", &number.to_le_bytes()),
            Variant::Number(number) => self.plain("t", &number.to_le_bytes()),
            Variant::Double(number) => self.plain("d", &number.to_le_bytes()),
            Variant::Numbers(numbers) => {
                self.signature("au");
                self.array(4, |array| numbers.iter().for_each(|number| array.number(*number)));
            }
            Variant::Bytes(bytes) => {
                self.signature("ay");
                self.array(1, |array| array.bytes.extend_from_slice(bytes));
            }
            Variant::Texts(texts) => {
                self.signature("as");
                self.array(4, |array| texts.iter().for_each(|text| array.string(text)));
            }
        }
    }
}

/// A length as D-Bus writes it; nothing that we send comes near four gigabytes.
fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Writes a call with its arguments.
pub(super) fn encode_call(serial: u32, method: Method, body: &Body) -> Vec<u8> {
    let mut message = Writer::new();
    for byte in [LITTLE_ENDIAN, CALL, 0, VERSION] {
        message.byte(byte);
    }
    message.number(length_of(&body.bytes));
    message.number(serial);
    message.array(8, |fields| {
        let mut field = |code, signature, text: &str| {
            fields.structure();
            fields.byte(code);
            fields.signature(signature);
            match signature {
                "g" => fields.signature(text),
                _ => fields.string(text),
            }
        };
        field(FIELD_PATH, "o", method.path);
        field(FIELD_INTERFACE, "s", method.interface);
        field(FIELD_MEMBER, "s", method.member);
        field(FIELD_DESTINATION, "s", method.destination);
        if !body.signature.is_empty() {
            field(FIELD_SIGNATURE, "g", body.signature);
        }
    });
    message.align(8);
    message.bytes.extend_from_slice(&body.bytes);
    message.into_bytes()
}

/// Reads values, and fails where they are not whole.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DBusError> {
        let end = self.at.checked_add(count).ok_or_else(|| malformed("a length beyond reason"))?;
        let taken = self.bytes.get(self.at..end).ok_or_else(|| malformed("it ends too early"))?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, DBusError> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn number(&mut self) -> Result<u32, DBusError> {
        self.align(4);
        let bytes = self.take(4)?.first_chunk().copied().unwrap_or_default();
        Ok(u32::from_le_bytes(bytes))
    }

    /// A string, or the path of an object.
    pub(super) fn string(&mut self) -> Result<String, DBusError> {
        let length = self.number()?;
        self.text(length as usize)
    }

    pub(super) fn signature(&mut self) -> Result<String, DBusError> {
        let length = self.byte()?;
        self.text(length.into())
    }

    fn text(&mut self, length: usize) -> Result<String, DBusError> {
        let bytes = self.take(length)?;
        if self.byte()? != 0 {
            return Err(malformed("a string without its end"));
        }
        String::from_utf8(bytes.to_vec()).map_err(|_| malformed("a string that is not UTF-8"))
    }
}

/// The length of a whole message, from the fixed part of its header.
pub(super) fn message_length(header: &[u8]) -> Result<usize, DBusError> {
    let mut reader = Reader::new(header);
    if reader.byte()? != LITTLE_ENDIAN {
        return Err(malformed("big-endian"));
    }
    reader.at = 4;
    let body = reader.number()? as usize;
    reader.at = 12;
    let fields = reader.number()? as usize;
    Ok((FIXED_BYTES + fields).next_multiple_of(8) + body)
}

/// Reads a whole message.
pub(super) fn decode(bytes: Vec<u8>) -> Result<Message, DBusError> {
    let mut reader = Reader::new(&bytes);
    reader.at = 1;
    let kind = match reader.byte()? {
        CALL => MessageKind::Call,
        2 => MessageKind::Return,
        3 => MessageKind::Error,
        4 => MessageKind::Signal,
        _ => return Err(malformed("an unknown type")),
    };
    reader.at = 12;
    let end = FIXED_BYTES + reader.number()? as usize;
    let mut message = Message {
        kind,
        member: None,
        error_name: None,
        reply_serial: None,
        signature: String::new(),
        body: Vec::new(),
    };
    while reader.at < end {
        reader.align(8);
        let code = reader.byte()?;
        match reader.signature()?.as_str() {
            "s" | "o" => {
                let text = reader.string()?;
                match code {
                    FIELD_MEMBER => message.member = Some(text),
                    FIELD_ERROR_NAME => message.error_name = Some(text),
                    _ => {}
                }
            }
            "g" => {
                let text = reader.signature()?;
                if code == FIELD_SIGNATURE {
                    message.signature = text;
                }
            }
            "u" => {
                let number = reader.number()?;
                if code == FIELD_REPLY_SERIAL {
                    message.reply_serial = Some(number);
                }
            }
            _ => return Err(malformed("a header field of an unknown type")),
        }
    }
    let body = end.next_multiple_of(8);
    message.body = bytes.get(body..).ok_or_else(|| malformed("it ends too early"))?.to_vec();
    Ok(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const METHOD: Method = Method {
        destination: "org.example",
        path: "/org/example",
        interface: "org.example.Thing",
        member: "Do",
    };

    #[test]
    fn a_number_stands_where_its_size_divides_the_place() {
        for (value, bytes) in [
            (Variant::Byte(7), &b"\x01y\0\x07"[..]),
            (Variant::Short(-2), b"\x01n\0\0\xfe\xff"),
            (Variant::UnsignedShort(2), b"\x01q\0\0\x02\0"),
            (Variant::Int(-1), b"\x01i\0\0\xff\xff\xff\xff"),
            (Variant::Unsigned(1), b"\x01u\0\0\x01\0\0\0"),
            (Variant::Long(-1), b"\x01x\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"),
            (Variant::Number(1), b"\x01t\0\0\0\0\0\0\x01\0\0\0\0\0\0\0"),
            (Variant::Double(1.0), b"\x01d\0\0\0\0\0\0\0\0\0\0\0\0\xf0\x3f"),
        ] {
            let mut writer = Writer::new();
            writer.variant(&value);
            assert_eq!(writer.into_bytes(), bytes, "{value:?}");
        }
    }

    #[test]
    fn a_call_reads_back_as_it_was_written() {
        let mut body = Writer::new();
        body.string("text");
        body.number(7);
        let body = Body { signature: "su", bytes: body.into_bytes() };

        let bytes = encode_call(3, METHOD, &body);
        let length = message_length(&bytes).unwrap();
        let message = decode(bytes.clone()).unwrap();

        assert_eq!(length, bytes.len());
        assert_eq!(message.kind, MessageKind::Call);
        assert_eq!(message.member.as_deref(), Some("Do"));
        assert_eq!(message.signature, "su");
        let mut reader = Reader::new(&message.body);
        assert_eq!((reader.string().unwrap().as_str(), reader.number().unwrap()), ("text", 7));
    }

    #[test]
    fn values_are_aligned_as_the_specification_demands() {
        let mut writer = Writer::new();
        writer.byte(1);
        writer.variant(&Variant::Number(2));
        assert_eq!(writer.into_bytes(), [1, 1, b't', 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);

        // An array's length leaves the padding before its first element out.
        let mut writer = Writer::new();
        writer.array(8, |array| {
            array.structure();
            array.byte(9);
        });
        assert_eq!(writer.into_bytes(), [1, 0, 0, 0, 0, 0, 0, 0, 9]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = message_length(&bytes);
            let _ = decode(bytes);
        }

        #[test]
        fn no_damage_makes_the_decoder_panic(at in 0_usize..100, byte in any::<u8>(), cut in 0_usize..150) {
            let mut bytes = encode_call(1, METHOD, &Body::empty());
            let at = at.min(bytes.len() - 1);
            bytes[at] = byte;
            bytes.truncate(cut);
            let _ = message_length(&bytes);
            let _ = decode(bytes);
        }
    }
}

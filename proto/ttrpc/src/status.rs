//! How a call ends when it fails: gRPC's codes, a text for people, details for machines.

use std::fmt;

use keg_proto::google::rpc;
use prost::Message;

/// gRPC's status codes, except success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    /// The caller gave up.
    Cancelled = 1,
    /// Nothing better is known.
    Unknown = 2,
    /// The request makes no sense, whatever the state.
    InvalidArgument = 3,
    /// Time ran out.
    DeadlineExceeded = 4,
    /// There is no such thing.
    NotFound = 5,
    /// There is such a thing already.
    AlreadyExists = 6,
    /// The caller may not.
    PermissionDenied = 7,
    /// Some resource ran out.
    ResourceExhausted = 8,
    /// The thing is not in a state for this.
    FailedPrecondition = 9,
    /// Another operation was in the way.
    Aborted = 10,
    /// Beyond the end.
    OutOfRange = 11,
    /// There is no such method here.
    Unimplemented = 12,
    /// A bug.
    Internal = 13,
    /// Not now; try again.
    Unavailable = 14,
    /// Data is lost or damaged.
    DataLoss = 15,
    /// The caller did not say who it is.
    Unauthenticated = 16,
}

impl Code {
    /// Converts gRPC's number; `None` for success, [`Code::Unknown`] for a number without meaning.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        const ALL: [Code; 16] = [
            Code::Cancelled,
            Code::Unknown,
            Code::InvalidArgument,
            Code::DeadlineExceeded,
            Code::NotFound,
            Code::AlreadyExists,
            Code::PermissionDenied,
            Code::ResourceExhausted,
            Code::FailedPrecondition,
            Code::Aborted,
            Code::OutOfRange,
            Code::Unimplemented,
            Code::Internal,
            Code::Unavailable,
            Code::DataLoss,
            Code::Unauthenticated,
        ];
        match number {
            0 => None,
            _ => Some(ALL.into_iter().find(|code| *code as i32 == number).unwrap_or(Code::Unknown)),
        }
    }
}

/// A failed call, as it travels.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The class of the failure.
    pub code: Code,
    /// What failed, for people.
    pub message: String,
    /// What failed, for machines: encoded messages with their type URLs.
    pub details: Vec<prost_types::Any>,
}

impl Status {
    /// Makes a status without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }

    /// Adds a `google.rpc.ErrorInfo` with `reason` and `domain`.
    #[must_use]
    pub fn with_reason(mut self, reason: &str, domain: &str) -> Self {
        let info = rpc::ErrorInfo {
            reason: reason.to_owned(),
            domain: domain.to_owned(),
            ..rpc::ErrorInfo::default()
        };
        self.details.push(prost_types::Any {
            type_url: ERROR_INFO_URL.to_owned(),
            value: info.encode_to_vec(),
        });
        self
    }

    /// Returns the first `google.rpc.ErrorInfo` among the details.
    #[must_use]
    pub fn error_info(&self) -> Option<rpc::ErrorInfo> {
        let any = self.details.iter().find(|any| any.type_url == ERROR_INFO_URL)?;
        rpc::ErrorInfo::decode(any.value.as_slice()).ok()
    }

    /// Converts from the message of the wire; `None` is success.
    #[must_use]
    pub fn from_wire(wire: rpc::Status) -> Option<Self> {
        let code = Code::from_number(wire.code)?;
        Some(Self { code, message: wire.message, details: wire.details })
    }

    /// Converts to the message of the wire.
    #[must_use]
    pub fn into_wire(self) -> rpc::Status {
        rpc::Status { code: self.code as i32, message: self.message, details: self.details }
    }
}

/// Type URL by which gRPC's libraries know the message.
const ERROR_INFO_URL: &str = "type.googleapis.com/google.rpc.ErrorInfo";

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// Decodes a handler's input, or says which message it is not.
///
/// # Errors
/// [`Code::InvalidArgument`].
pub(crate) fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, Status> {
    M::decode(payload).map_err(|error| {
        let name = std::any::type_name::<M>().rsplit("::").next().unwrap_or_default();
        Status::new(Code::InvalidArgument, format!("not a valid {name}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_survives_the_wire() {
        let status =
            Status::new(Code::NotFound, "no sh").with_reason("COMMAND_NOT_FOUND", "keg.runtime");

        let back = Status::from_wire(status.clone().into_wire()).expect("a failure");

        assert_eq!(back, status);
        let info = back.error_info().expect("details");
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("COMMAND_NOT_FOUND", "keg.runtime")
        );
    }

    #[test]
    fn zero_is_success_and_unknown_numbers_are_failures() {
        assert_eq!(Code::from_number(0), None);
        assert_eq!(Code::from_number(12), Some(Code::Unimplemented));
        assert_eq!(Code::from_number(99), Some(Code::Unknown));
        assert_eq!(Code::from_number(-1), Some(Code::Unknown));
    }
}

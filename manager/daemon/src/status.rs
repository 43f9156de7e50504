//! How errors travel: a gRPC code for their class, a `google.rpc.ErrorInfo` for programs, and a
//! text with all causes for people.

use std::collections::HashMap;

use keg_proto::ERROR_DOMAIN;
use keg_store::{ErrorClass, Explain};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Turns an error into what the client gets.
pub(crate) fn to_status(error: &(impl Explain + ?Sized)) -> Status {
    let mut metadata: HashMap<String, String> =
        error.operands().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    if let Some(remedy) = error.remedy() {
        metadata.insert("remedy".to_owned(), remedy.into_owned());
    }
    let mut details = ErrorDetails::new();
    details.set_error_info(error.reason().as_str(), ERROR_DOMAIN, metadata);
    Status::with_error_details(code(error.class()), chain(error), details)
}

/// A field of a request that cannot be converted.
pub(crate) fn invalid(field: &'static str, problem: impl Into<String>) -> Status {
    let problem = problem.into();
    to_status(&keg_engine::EngineError::InvalidField { field, problem })
}

/// The one place where classes become codes.
fn code(class: ErrorClass) -> Code {
    match class {
        ErrorClass::InvalidArgument => Code::InvalidArgument,
        ErrorClass::NotFound => Code::NotFound,
        ErrorClass::AlreadyExists => Code::AlreadyExists,
        ErrorClass::FailedPrecondition => Code::FailedPrecondition,
        ErrorClass::Unavailable => Code::Unavailable,
        ErrorClass::Unauthenticated => Code::Unauthenticated,
        ErrorClass::DataLoss => Code::DataLoss,
        ErrorClass::ResourceExhausted => Code::ResourceExhausted,
        ErrorClass::Aborted => Code::Aborted,
        ErrorClass::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorClass::Internal => Code::Internal,
    }
}

/// An error with all its causes; one that repeats the text before it is left out.
fn chain(error: &(impl Explain + ?Sized)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use keg_engine::EngineError;
    use keg_engine::users::UserError;

    use super::*;

    #[test]
    fn an_error_carries_code_reason_operands_and_remedy() {
        let error = EngineError::NoSuchContainer { name: "web".into() };

        let status = to_status(&error);

        let info = status.get_details_error_info().unwrap();
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "no such container: web");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("CONTAINER_NOT_FOUND", "keg.v1"));
        assert_eq!(info.metadata["container"], "web");
        assert!(info.metadata["remedy"].contains("keg ps -a"));
    }

    #[test]
    fn causes_are_told_once() {
        let source = UserError::UnknownUser { name: "web".into() };
        let error = EngineError::User { container: "db".into(), source };

        let message = to_status(&error).message().to_owned();

        assert_eq!(message.matches("no user \"web\"").count(), 1, "{message}");
    }
}

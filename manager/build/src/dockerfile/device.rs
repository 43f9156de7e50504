//! `RUN --device`: a device that a step asks for.

/// A device of CDI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDevice {
    /// Its name, `VENDOR/CLASS=NAME`.
    pub name: String,
    /// Without it the step does not run.
    pub required: bool,
}

impl RunDevice {
    /// Reads the value of a `--device`, variables replaced: `NAME[,required]`, or fields in any order.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut device = Self { name: String::new(), required: false };
        for field in text.split(',') {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            match key.to_ascii_lowercase().as_str() {
                "required" => {
                    device.required = match value {
                        "" | "1" | "true" => true,
                        "0" | "false" => false,
                        other => return Err(format!("required is true or false, not {other:?}")),
                    }
                }
                "name" if device.name.is_empty() => device.name = value.to_owned(),
                // The name has a = of its own.
                _ if device.name.is_empty() => device.name = field.to_owned(),
                _ => return Err(format!("{field:?} is not expected; there is name and required")),
            }
        }
        match device.name.split_once('=') {
            Some((kind, name)) if kind.contains('/') && !name.is_empty() => Ok(device),
            _ => Err(format!("{:?} is no device, such as vendor.com/class=name", device.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_a_name_and_may_be_required() {
        let device = |text: &str| RunDevice::parse(text).map(|one| (one.name, one.required));
        let name = "vendor.com/gpu=all";

        assert_eq!(device(name), Ok((name.to_owned(), false)));
        assert_eq!(device("vendor.com/gpu=all,required"), Ok((name.to_owned(), true)));
        assert_eq!(device("required=true,name=vendor.com/gpu=all"), Ok((name.to_owned(), true)));
        for bad in ["", "gpu", "vendor.com/gpu", "/dev/null", "a/b=c,fast", "a/b=c,required=x"] {
            assert!(device(bad).is_err(), "{bad}");
        }
    }
}

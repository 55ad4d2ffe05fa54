//! The keyword arguments of native environments, strictly read.

use toml::Value;

use crate::{Argument, EnvError, registry::EnvConfig};

/// Reads the arguments of one constructor by name; [`finish`](Kwargs::finish) refuses what was not asked for.
pub(crate) struct Kwargs<'a> {
    config: &'a EnvConfig,
    known: Vec<Argument>,
}

impl<'a> Kwargs<'a> {
    /// The arguments in `config`.
    pub fn new(config: &'a EnvConfig) -> Kwargs<'a> {
        Kwargs { config, known: Vec::new() }
    }

    /// A finite number, or the default.
    pub fn number(&mut self, name: &'static str, default: f64) -> Result<f64, EnvError> {
        self.read(name, default, "a finite number", |value| number(value).filter(|x| x.is_finite()))
    }

    /// A finite number that is not negative, or the default.
    pub fn scale(&mut self, name: &'static str, default: f64) -> Result<f64, EnvError> {
        self.read(name, default, "a finite number, at least 0", |value| {
            number(value).filter(|x| (0.0..f64::INFINITY).contains(x))
        })
    }

    /// A whole number from 1, or the default.
    pub fn count(&mut self, name: &'static str, default: u32) -> Result<u32, EnvError> {
        self.read(name, default, "a whole number, at least 1", |value| {
            u32::try_from(value.as_integer()?).ok().filter(|&n| n > 0)
        })
    }

    /// Two numbers, the lower one first, or the default; either may be infinite.
    pub fn range(&mut self, name: &'static str, default: [f64; 2]) -> Result<[f64; 2], EnvError> {
        self.read_as(name, default, default.to_vec().into(), "two numbers, the lower one first", |value| {
            let [low, high] = value.as_array()?.as_slice() else { return None };
            let range = [number(low)?, number(high)?];
            (range[0] <= range[1]).then_some(range)
        })
    }

    /// `true` or `false`, or the default.
    pub fn flag(&mut self, name: &'static str, default: bool) -> Result<bool, EnvError> {
        self.read(name, default, "true or false", Value::as_bool)
    }

    /// A text, or the default.
    pub fn text(&mut self, name: &'static str, default: &'a str) -> Result<&'a str, EnvError> {
        self.read(name, default, "a text", Value::as_str)
    }

    /// The argument as it stands, if it is given; `default` is what counts otherwise, for those who ask.
    pub fn any(&mut self, name: &'static str, default: Option<Value>) -> Option<&'a Value> {
        self.known.push(Argument { name: name.into(), default: default.map(|value| value.to_string()) });
        self.config.kwargs.get(name)
    }

    /// Everything that was asked for, and where it was looked for; refuses arguments that no one asked for.
    pub fn finish(self) -> Result<(&'a EnvConfig, Vec<Argument>), EnvError> {
        let known: Vec<&str> = self.known.iter().map(|argument| argument.name.as_str()).collect();
        let Some(name) = self.config.kwargs.keys().find(|name| !known.contains(&name.as_str())) else {
            return Ok((self.config, self.known));
        };
        Err(self.invalid(match nearest(name, &known) {
            _ if name == "render_mode" => {
                "`render_mode` needs backend = \"gymnasium\", since native environments do not draw".into()
            }
            Some(near) => format!("there is no argument `{name}`; did you mean `{near}`?"),
            None => format!("there is no argument `{name}`; it takes none"),
        }))
    }

    /// An error about this environment.
    pub fn invalid(&self, message: String) -> EnvError {
        EnvError::Invalid { id: self.config.id.clone(), message }
    }

    fn read<T: Copy + Into<Value>>(
        &mut self,
        name: &'static str,
        default: T,
        rule: &str,
        parse: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<T, EnvError> {
        self.read_as(name, default, default.into(), rule, parse)
    }

    fn read_as<T>(
        &mut self,
        name: &'static str,
        default: T,
        shown: Value,
        rule: &str,
        parse: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<T, EnvError> {
        match self.any(name, Some(shown)) {
            None => Ok(default),
            Some(value) => parse(value).ok_or_else(|| self.wrong(name, value, rule)),
        }
    }

    /// An error about an argument's value.
    pub fn wrong(&self, name: &str, value: &Value, rule: &str) -> EnvError {
        self.invalid(format!("`{name}` is {value}; it must be {rule}"))
    }
}

fn number(value: &Value) -> Option<f64> {
    let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64))?;
    (!number.is_nan()).then_some(number)
}

/// The known name that is most like `name`, if there is any name at all.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known.iter().copied().max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)))
}

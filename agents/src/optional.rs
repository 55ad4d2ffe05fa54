//! Numbers that may be left out, in run files: `0.2` or `"none"`. For `#[serde(with = "optional")]`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number or \"none\"")]
enum Written {
    Number(f64),
    Word(Word),
}

#[derive(Serialize, Deserialize)]
enum Word {
    #[serde(rename = "none")]
    Free,
}

pub(crate) fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map_or(Written::Word(Word::Free), Written::Number).serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    Ok(match Written::deserialize(deserializer)? {
        Written::Number(number) => Some(number),
        Written::Word(Word::Free) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Table {
        #[serde(with = "super")]
        x: Option<f64>,
    }

    #[test]
    fn a_number_or_the_word_none() {
        let read = |text| toml::from_str::<Table>(text).map(|table| table.x);
        assert_eq!(read("x = 0.5"), Ok(Some(0.5)));
        assert_eq!(read("x = 1"), Ok(Some(1.0)));
        assert_eq!(read("x = \"none\""), Ok(None));
        assert!(read("x = \"nothing\"").expect_err("refused").message().contains("a number or \"none\""));
        assert_eq!(toml::to_string(&Table { x: None }), Ok("x = \"none\"\n".into()));
        assert_eq!(toml::to_string(&Table { x: Some(0.5) }), Ok("x = 0.5\n".into()));
    }
}

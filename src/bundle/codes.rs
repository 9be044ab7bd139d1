//! Codes of the classes, by which other programs know what a DICOM segmentation shows (DICOM PS3.3 C.8.20.2 and 8.8).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Scheme of the codes that are made of class names. Private schemes begin with 99.
const PRIVATE_SCHEME: &str = "99SPSAM";
/// Most characters of a code and of a scheme (VR SH).
const LONGEST_CODE: usize = 16;
/// Most characters of a meaning (VR LO).
const LONGEST_MEANING: usize = 64;

/// A code of a coding scheme, such as SNOMED CT (`SCT`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// Coding scheme, such as `SCT`, at most 16 characters.
    pub scheme: String,
    /// The code, at most 16 characters. Digits need quotes in YAML.
    pub value: String,
    /// What it means, at most 64 characters.
    pub meaning: String,
}

/// What a class is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassCodes {
    /// Category (DICOM CID 7150). Default: anatomical structure.
    #[serde(default = "anatomical_structure", skip_serializing_if = "is_anatomical_structure")]
    pub category: Code,
    /// The structure, such as the left ventricle.
    #[serde(rename = "type")]
    pub kind: Code,
    /// Which part of it or which of several, such as anterior or left. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modifier: Option<Code>,
}

impl Code {
    /// A code of SNOMED CT.
    pub fn snomed(value: &str, meaning: &str) -> Self {
        Self { scheme: "SCT".into(), value: value.into(), meaning: meaning.into() }
    }

    fn check(&self) -> Result<(), String> {
        for (field, text, most) in [
            ("scheme", &self.scheme, LONGEST_CODE),
            ("value", &self.value, LONGEST_CODE),
            ("meaning", &self.meaning, LONGEST_MEANING),
        ] {
            let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'\\');
            if text.trim().is_empty() || text.len() > most || !is_plain {
                return Err(format!("{field} `{text}` is not 1 to {most} characters of ASCII without `\\`"));
            }
        }
        Ok(())
    }
}

impl ClassCodes {
    /// A class without codes: an anatomical structure with a private code. Classes with the same name have the same.
    pub fn of_name(name: &str) -> Self {
        let meaning = plain_text(name, LONGEST_MEANING);
        let value = match meaning == name && name.len() <= LONGEST_CODE {
            true => meaning.clone(),
            false => hex(&Sha256::digest(name)),
        };
        let kind = Code { scheme: PRIVATE_SCHEME.into(), value, meaning };
        Self { category: anatomical_structure(), kind, modifier: None }
    }
}

/// The start of a hash.
fn hex(hash: &[u8]) -> String {
    hash.iter().take(LONGEST_CODE / 2).map(|byte| format!("{byte:02x}")).collect()
}

/// A text for any character set: all but printable ASCII is replaced.
pub(crate) fn plain_text(text: &str, most: usize) -> String {
    let plain = |c: char| if matches!(c, ' '..='~') && c != '\\' { c } else { '_' };
    let text: String = text.trim().chars().take(most).map(plain).collect();
    if text.is_empty() { "_".into() } else { text }
}

fn anatomical_structure() -> Code {
    Code::snomed("91723000", "Anatomical Structure")
}

fn is_anatomical_structure(code: &Code) -> bool {
    *code == anatomical_structure()
}

/// Fails if a code is not possible, or belongs to no class.
pub(super) fn check(codes: &BTreeMap<String, ClassCodes>, classes: &[String]) -> Result<(), String> {
    for (class, ClassCodes { category, kind, modifier }) in codes {
        if !classes.iter().skip(1).any(|name| name == class) {
            return Err(format!("codes: `{class}` is no class, or the background"));
        }
        for (name, code) in
            [("category", Some(category)), ("type", Some(kind)), ("modifier", modifier.as_ref())]
        {
            let Some(code) = code else { continue };
            code.check().map_err(|reason| format!("codes: {class}: {name}: {reason}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_and_mistakes_named() {
        let text = "left: { type: { scheme: SCT, value: '87878005', meaning: Left ventricle } }";
        let codes: BTreeMap<String, ClassCodes> = serde_yaml::from_str(text).unwrap();
        let classes = ["background", "left"].map(String::from);
        check(&codes, &classes).unwrap();
        assert_eq!(codes["left"].category.value, "91723000");
        assert_eq!(codes["left"].kind, Code::snomed("87878005", "Left ventricle"));
        assert_eq!(
            serde_yaml::from_str::<BTreeMap<_, _>>(&serde_yaml::to_string(&codes).unwrap()).unwrap(),
            codes
        );
        assert!(check(&codes, &classes[..1]).unwrap_err().contains("`left` is no class"));
        for wrong in ["", "a\\b", "ü", "12345678901234567"] {
            let mut codes = codes.clone();
            codes.get_mut("left").unwrap().kind.value = wrong.into();
            let error = check(&codes, &classes).unwrap_err();
            assert!(error.contains("left: type: value") && error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_class_without_codes_has_a_private_one_that_depends_only_on_its_name() {
        let kind = |name: &str| ClassCodes::of_name(name).kind;
        assert_eq!(kind("thalamus").value, "thalamus");
        let long = "left_superior_temporal_gyrus_anterior_division";
        assert_eq!(kind(long).meaning, long);
        let names = [long, "left_superior_temporal_gyrus", "Gefäß", "Gefüß", "", &"x".repeat(100)];
        let values: std::collections::BTreeSet<String> = names.map(|name| kind(name).value).into();
        assert_eq!(values.len(), names.len());
        for name in names {
            let code = kind(name);
            assert_eq!((code.check(), &*code.scheme), (Ok(()), "99SPSAM"), "{name}");
        }
    }
}

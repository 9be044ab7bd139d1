//! The examples in `docs/fields.md` are read as they stand, and show every field.

use std::collections::BTreeSet;
use std::path::Path;

use self_prompt_sam::bundle::BundleConfig;
use self_prompt_sam::training::TrainingConfig;
use serde_yaml::Value;

/// All keys of a value and of what is in it.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Mapping(map) => {
            for (key, value) in map {
                found.extend(key.as_str().map(String::from));
                keys(value, found);
            }
        }
        Value::Sequence(values) => values.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn the_examples_of_fields_are_read_and_show_every_field() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fields.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let blocks: Vec<&str> =
        text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let [model, training] = <[&str; 2]>::try_from(blocks).unwrap();
    let bundle: BundleConfig = serde_yaml::from_str(model).unwrap();
    let training_config = TrainingConfig::parse(training, &path).unwrap();

    let (mut shown, mut known) = (BTreeSet::new(), BTreeSet::new());
    for example in [model, training] {
        keys(&serde_yaml::from_str(example).unwrap(), &mut shown);
    }
    keys(&serde_yaml::to_value(&bundle).unwrap(), &mut known);
    keys(&serde_yaml::to_value(&training_config).unwrap(), &mut known);
    let missing: Vec<&String> = known.difference(&shown).collect();
    assert!(missing.is_empty() && known.len() > 80, "not shown: {missing:?} of {}", known.len());
}

/// What the comments call the default is the default.
#[test]
fn the_examples_of_fields_show_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fields.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let example = text.split("```yaml\n").nth(2).and_then(|rest| rest.split("```").next()).unwrap();
    let shown = TrainingConfig::parse(example, &path).unwrap();
    let mut least: Value = serde_yaml::from_str(example).unwrap();
    let least = least.as_mapping_mut().unwrap();
    for field in ["loss", "augmentation", "prefetch", "precision", "seed"] {
        least.remove(field).unwrap();
    }
    least["data"].as_mapping_mut().unwrap().remove("foreground").unwrap();
    least["data"].as_mapping_mut().unwrap().remove("memory_mib").unwrap();
    for field in ["windows_per_step", "validate_every_epochs", "checkpoint_every_epochs", "log_every_steps"] {
        least["schedule"].as_mapping_mut().unwrap().remove(field).unwrap();
    }
    least.insert("prompts".into(), Value::Mapping(Default::default()));
    let defaults = TrainingConfig::parse(&serde_yaml::to_string(least).unwrap(), &path).unwrap();
    assert_eq!(shown, defaults);
}

//! Of which classes only the largest component is kept: decided by validation, written into the bundle.

use std::sync::atomic::AtomicBool;

use self_prompt_sam::bundle::{Bundle, LargestComponent};
use self_prompt_sam::training::{
    ComponentRule, DiceFigures, History, Outcome, Stage, Trainer, TrainingConfig, Validation, Validator,
    divide, run,
};

use crate::training::{config, fp32, with_fixed_weights};

fn validate(trainer: &Trainer, config: &TrainingConfig, rule: ComponentRule) -> Validation {
    let mut config = config.clone();
    config.model.largest_component = rule;
    let cases = divide(&config).unwrap().validation.into_iter().take(1).collect();
    let validator = Validator::of_config(&config, cases);
    validator.validate(trainer, Stage::Full, None, &AtomicBool::new(false)).unwrap().unwrap().figures
}

/// What the decision compares is measured here by two validations with given rules, whose labels are assembled as in
/// inference.
#[test]
fn a_validation_decides_by_the_dice_of_each_class_and_the_bundle_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = with_fixed_weights(config(folder.path(), 6), folder.path());
    config.schedule.generator_only_epochs = 1;
    config.schedule.epochs = 3;
    config.model.largest_component = ComponentRule::by_validation();
    let outcome = run(&config, fp32(), false, &AtomicBool::new(false)).unwrap();
    let Outcome::Finished { bundle, best: Some(best) } = outcome else { panic!("{outcome:?}") };

    let history = History::read(&config.output.join("history.json"), 9).unwrap();
    let exported = history.validations.iter().find(|validation| validation.step == best.step).unwrap();
    assert_eq!(exported.output.mean, Some(best.dice));
    let expected = LargestComponent::OfClasses(exported.largest_component.clone());
    let found = Bundle::open(&bundle).unwrap().config.largest_component;
    assert!(found == expected || found.keeps_all() && expected.keeps_all(), "{found:?} {expected:?}");

    let mut trainer = Trainer::new(&config, fp32()).unwrap();
    let (manifest, shards) = config.checkpoints().read(best.step).unwrap();
    trainer.restore(manifest.step, &shards).unwrap();
    let names: Vec<String> = config.model.classes[1..].to_vec();
    let all = ComponentRule::Given(LargestComponent::OfClasses(names.clone()));
    let [before, cleaned, decided] =
        [false.into(), all, ComponentRule::by_validation()].map(|rule| validate(&trainer, &config, rule));
    let dice = |figures: &DiceFigures, class: usize| figures.classes[class].1.unwrap();
    for (class, name) in names.iter().enumerate() {
        let [before, cleaned, after] = [&before, &cleaned, &decided].map(|of| dice(&of.output, class));
        assert_eq!(after, before.max(cleaned), "{name}");
        assert_eq!(decided.largest_component.contains(name), cleaned > before, "{name}");
    }
    assert!(before.largest_component.is_empty() && cleaned.largest_component.is_empty());
}

//! `spsam init`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use eyre::{Result, WrapErr, bail};
use self_prompt_sam::bundle::{Backbone, Bundle, BundleConfig, WeightFile};
use self_prompt_sam::network::segmenter::write_fresh_weights;
use self_prompt_sam::weights::sha256_file;

#[derive(Args)]
pub struct Init {
    /// A model.yml to start from; its hashes may be empty.
    template: PathBuf,
    /// Folder of the new bundle.
    #[arg(long)]
    output: PathBuf,
    /// Backbone weights, instead of those in the template. Not for vit_tiny, which gets random weights.
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Seed of the random weights.
    #[arg(long, default_value_t = 0)]
    seed: i64,
}

impl Init {
    pub fn run(self) -> Result<()> {
        let template = Bundle::open(&self.template)?;
        let random = template.config.network.backbone == Backbone::VitTiny;
        let target = self.output.join("model.yml");
        if target.exists() {
            bail!("{}: exists already", target.display());
        }
        fs::create_dir_all(&self.output).wrap_err_with(|| format!("{}", self.output.display()))?;
        let weights = match (&self.weights, random) {
            (Some(_), true) => bail!("vit_tiny has no published weights: leave --weights out"),
            (Some(path), false) => std::path::absolute(path)?,
            (None, true) => "backbone.safetensors".into(),
            (None, false) => std::path::absolute(template.path_of(&template.config.weights))?,
        };
        let adapters = Path::new("adapters.safetensors");
        let backbone = random.then(|| self.output.join(&weights));
        write_fresh_weights(&template.config, self.seed, &self.output.join(adapters), backbone.as_deref())?;
        let hashed = |file: &Path| -> Result<WeightFile> {
            Ok(WeightFile { file: file.into(), sha256: sha256_file(&self.output.join(file))? })
        };
        let config =
            BundleConfig { weights: hashed(&weights)?, adapters: Some(hashed(adapters)?), ..template.config };
        let yaml = serde_yaml::to_string(&config)?;
        self_prompt_sam::files::write_atomically(&target, |file| file.write_all(yaml.as_bytes()))
            .wrap_err_with(|| format!("{}", target.display()))?;
        println!("{}: untrained `{}`", target.display(), config.name);
        Ok(())
    }
}

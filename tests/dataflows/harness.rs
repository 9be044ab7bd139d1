//! Runs dataflows on synthetic volumes with an untrained bundle of a small backbone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use self_prompt_sam::bundle::{
    Backbone, BundleConfig, NetworkConfig, Normalisation, Patch, Plane, SliceAxis, WeightFile,
};
use self_prompt_sam::network::segmenter::write_fresh_weights;
use self_prompt_sam::weights::sha256_file;
use tempfile::TempDir;

use super::machine::{self, Place};

/// A run of these small cases takes longer only if something hangs.
const RUN_LIMIT: Duration = Duration::from_secs(600);

pub fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn python() -> PathBuf {
    std::env::var_os("SPSAM_PYTHON").map_or_else(|| project().join(".spsam/venv/bin/python"), Into::into)
}

/// True with `SPSAM_FULL=1`: soak and kill campaigns then run in full length.
pub fn full() -> bool {
    std::env::var("SPSAM_FULL").is_ok_and(|value| value == "1")
}

/// A folder with volumes and a bundle, and a place on the machine.
pub struct Bench {
    pub folder: TempDir,
    _place: Place,
}

impl Bench {
    /// `cases` volumes of 64×64×`slices` voxels and a `vit_tiny` bundle with windows of 4 slices, beside other tests.
    pub fn new(cases: usize, slices: usize) -> Self {
        Self::on(machine::share(), cases, slices)
    }

    /// [`Bench::new`] while no other dataflow runs.
    pub fn alone(cases: usize, slices: usize) -> Self {
        Self::on(machine::whole(), cases, slices)
    }

    fn on(place: Place, cases: usize, slices: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bench = Self { folder, _place: place };
        let status = Command::new(python())
            .arg(project().join("tests/python/make_cases.py"))
            .args([bench.path("images"), bench.path("labels")])
            .args([cases.to_string(), slices.to_string()])
            .status()
            .unwrap_or_else(|error| panic!("Python: {error}; run `cargo xtask setup --test`"));
        assert!(status.success());
        bench.write_bundle();
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_bundle(&self) {
        let folder = self.path("bundle");
        fs::create_dir(&folder).unwrap();
        let weights = |file: &str| WeightFile { file: file.into(), sha256: String::new() };
        let mut config = BundleConfig {
            name: "test".into(),
            classes: ["background", "one", "two"].map(String::from).to_vec(),
            codes: Default::default(),
            modalities: vec!["MR".into()],
            slice_axis: SliceAxis::Axial,
            spacing_mm: None,
            patch: Patch {
                depth: 4,
                plane: Plane::Window([64, 64]),
                depth_overlap: 0.5,
                plane_overlap: 0.5,
                mirror: [false; 3],
                locate: None,
            },
            normalisation: Normalisation::ZScore,
            largest_component: false.into(),
            network: NetworkConfig::full(Backbone::VitTiny, 64),
            weights: weights("backbone.safetensors"),
            adapters: Some(weights("adapters.safetensors")),
        };
        let (backbone, adapters) = (folder.join("backbone.safetensors"), folder.join("adapters.safetensors"));
        write_fresh_weights(&config, 7, &adapters, Some(&backbone)).unwrap();
        config.weights.sha256 = sha256_file(&backbone).unwrap();
        config.adapters.as_mut().unwrap().sha256 = sha256_file(&adapters).unwrap();
        fs::write(folder.join("model.yml"), serde_yaml::to_string(&config).unwrap()).unwrap();
    }

    /// A copy of a dataflow of the project with `edit` applied to its text.
    pub fn dataflow(&self, name: &str, edit: impl Fn(String) -> String) -> PathBuf {
        let text = fs::read_to_string(project().join(name)).unwrap();
        let folder = self.path(&format!("flow-{}", fs::read_dir(self.folder.path()).unwrap().count()));
        fs::create_dir_all(folder.join("types/spsam")).unwrap();
        let types = "types/spsam/v1.yml";
        fs::copy(project().join("dataflows").join(types), folder.join(types)).unwrap();
        let absolute = |depth: &str| format!("{}/", project().join(depth).display());
        let text = edit(text)
            .replace("../../target/", &absolute("target"))
            .replace("../target/", &absolute("target"));
        // Without build commands: the binaries exist, and this folder is no cargo project.
        let text: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("build:"))
            .map(|l| format!("{l}\n"))
            .collect();
        let path = folder.join("flow.yml");
        fs::write(&path, text).unwrap();
        path
    }

    /// Starts `dora run` on a dataflow; results go to `output` in the bench's folder.
    pub fn start(&self, dataflow: &Path, output: &str, settings: &[(&str, &str)]) -> Run {
        let mut command = Command::new(project().join(".spsam/bin/dora"));
        command.arg("run").arg(dataflow);
        self.launch(command, output, settings)
    }

    /// As [`Bench::start`], with another command.
    pub fn launch(&self, mut command: Command, output: &str, settings: &[(&str, &str)]) -> Run {
        let log = self.path(&format!("{output}.log"));
        let to_log = || Stdio::from(fs::OpenOptions::new().create(true).append(true).open(&log).unwrap());
        command
            .env("SPSAM_INPUT", self.path("images"))
            .env("SPSAM_MODEL", self.path("bundle"))
            .env("SPSAM_LABELS", self.path("labels"))
            .env("SPSAM_OUTPUT", self.path(output))
            .env("SPSAM_DEVICE", "cpu")
            .env("SPSAM_PRECISION", "fp32")
            .env("SPSAM_ACK_TIMEOUT_SECS", "4")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(to_log())
            .stderr(to_log());
        for (name, value) in settings {
            command.env(name, value);
        }
        let output = self.path(output);
        Run {
            child: command.spawn().unwrap_or_else(|error| panic!("dora: {error}; run `cargo xtask setup`")),
            output,
            log,
            started: Instant::now(),
        }
    }
}

/// A running dataflow.
pub struct Run {
    child: Child,
    output: PathBuf,
    log: PathBuf,
    started: Instant,
}

impl Run {
    /// Waits for the run to end.
    pub fn finish(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if self.started.elapsed() > RUN_LIMIT {
                panic!("the dataflow hangs; its log:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log contains `text`.
    pub fn wait_for(&mut self, text: &str) {
        self.wait_until(text, |log| log.contains(text));
    }

    /// Waits until the log fulfils a condition, called `what` if it does not.
    pub fn wait_until(&mut self, what: &str, is_fulfilled: impl Fn(&str) -> bool) {
        while !is_fulfilled(&self.log()) {
            assert!(self.child.try_wait().unwrap().is_none(), "ended without `{what}`; log:\n{}", self.log());
            assert!(self.started.elapsed() < RUN_LIMIT, "no `{what}` in time; log:\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a file exists.
    pub fn wait_for_file(&mut self, path: &Path) {
        while !path.exists() {
            let name = path.display();
            assert!(self.child.try_wait().unwrap().is_none(), "ended without {name}; log:\n{}", self.log());
            assert!(self.started.elapsed() < RUN_LIMIT, "no {name} in time; log:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal to the command itself.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(format!("-{name}")).arg(pid).status().unwrap().success());
    }

    /// Sends SIGKILL to a node of this run.
    pub fn kill(&self, program: &str) {
        let nodes = self.processes();
        let found: Vec<_> = nodes.iter().filter(|(_, name)| name == program).collect();
        assert_eq!(found.len(), 1, "{program} is not running once");
        assert!(Command::new("kill").args(["-9", &found[0].0]).status().unwrap().success());
    }

    /// Process id and program of every running process that this run has started.
    pub fn processes(&self) -> Vec<(String, String)> {
        let output = self.output.display().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let folder = entry.path();
            let program = fs::read_link(folder.join("exe")).unwrap_or_default();
            let environment = fs::read(folder.join("environ")).unwrap_or_default();
            if let Some(name) = program.file_name()
                && String::from_utf8_lossy(&environment).contains(&output)
            {
                let pid = entry.file_name().to_string_lossy().into_owned();
                found.push((pid, name.to_string_lossy().into_owned()));
            }
        }
        found
    }

    /// The label maps by file name.
    pub fn label_maps(&self) -> BTreeMap<String, Vec<u8>> {
        label_maps(&self.output)
    }

    /// summary.json.
    pub fn summary(&self) -> serde_json::Value {
        let path = self.output.join("summary.json");
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; log:\n{}", path.display(), self.log()));
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // `spsam` leads dora and its nodes, which have a process group of their own.
        if let Ok(None) = self.child.try_wait() {
            for (pid, _) in self.processes() {
                let _ = Command::new("kill").args(["-9", &pid]).status();
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn label_maps(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let maps = files.filter(|file| file.file_name().to_string_lossy().contains(".nii"));
    maps.map(|file| (file.file_name().to_string_lossy().into_owned(), fs::read(file.path()).unwrap()))
        .collect()
}

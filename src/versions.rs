//! Versions of the project's foundations: of crates as locked by cargo, and of libtorch as loaded.

use std::sync::OnceLock;

unsafe extern "C" {
    fn spsam_build_settings(text: *mut u8, size: usize) -> usize;
}

/// This project.
pub const SELF_PROMPT_SAM: &str = env!("CARGO_PKG_VERSION");

/// dora's node library; the `dora` command must have the same version.
pub const DORA: &str = env!("SPSAM_DORA_VERSION");

/// tch, the binding to libtorch.
pub const TCH: &str = env!("SPSAM_TCH_VERSION");

/// libtorch's version as the loaded library reports it; `unknown` if it does not.
pub fn torch() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| torch_version_in(&build_settings()).unwrap_or("unknown").to_owned())
}

fn build_settings() -> String {
    let mut text = vec![0; 1 << 16];
    // SAFETY: the function writes at most as many bytes as the buffer has.
    let length = unsafe { spsam_build_settings(text.as_mut_ptr(), text.len()) };
    text.truncate(length);
    String::from_utf8_lossy(&text).into_owned()
}

/// Parses `… Build settings: …, TORCH_VERSION=2.11.0, USE_CUDA=ON, …`.
fn torch_version_in(settings: &str) -> Option<&str> {
    let (_, rest) = settings.split_once("TORCH_VERSION=")?;
    rest.split([',', ' ', '\n']).next().filter(|version| !version.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn versions_are_those_that_are_built_with() {
        let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
        for (name, version) in [("dora-node-api", DORA), ("tch", TCH)] {
            let line = manifest.lines().find(|line| line.starts_with(&format!("{name} = {{"))).unwrap();
            assert!(line.contains(&format!("\"={version}\"")), "{version}: {line}");
        }
    }

    /// The version in the headers, which are next to the library.
    #[test]
    fn the_version_of_libtorch_is_that_of_the_library() {
        let libtorch = std::env::var_os("LIBTORCH").unwrap();
        let header = Path::new(&libtorch).join("include/torch/headeronly/version.h");
        let header = fs::read_to_string(header).unwrap();
        let numbers: Vec<&str> = torch().split('.').collect();
        assert_eq!(numbers.len(), 3, "{}", torch());
        for (part, number) in ["MAJOR", "MINOR", "PATCH"].iter().zip(numbers) {
            let line = format!("#define TORCH_VERSION_{part} {number}\n");
            assert!(header.contains(&line), "{} is loaded, the header says otherwise: {line}", torch());
        }
    }

    #[test]
    fn the_version_is_found_among_the_build_settings() {
        let settings = "PyTorch built with:\n  - Build settings: X=1, TORCH_VERSION=2.13.1, USE_CUDA=0, \n";
        assert_eq!(torch_version_in(settings), Some("2.13.1"));
        assert_eq!(torch_version_in("PyTorch built with:\n"), None);
    }
}

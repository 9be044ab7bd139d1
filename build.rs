//! Compiles C++ for parts of libtorch that tch does not cover (`src/tensor/*.cpp`), sets the rpath, and passes on
//! the versions of dora and tch.

#[path = "nodes/build.rs"]
mod rpath;

use std::path::PathBuf;

fn main() {
    rpath::main();
    locked_versions();
    let Some(libtorch) = std::env::var_os("LIBTORCH").map(PathBuf::from) else {
        println!(
            "cargo::error=LIBTORCH is not set; .cargo/config.toml sets it where cargo runs within the project"
        );
        return;
    };
    let sources = ["src/tensor/operation.cpp", "src/tensor/packed.cpp", "src/tensor/version.cpp"];
    for source in sources {
        println!("cargo::rerun-if-changed={source}");
    }
    // A missing file would cause a rebuild every time.
    println!(
        "cargo::rerun-if-changed={}",
        libtorch.join("include/torch/csrc/api/include/torch/version.h").display()
    );
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .include(libtorch.join("include"))
        .include(libtorch.join("include/torch/csrc/api/include"))
        // Warnings about libtorch's headers are not ours to fix.
        .warnings(false)
        .files(sources)
        .compile("spsam_libtorch");
}

/// Passes the versions that cargo has locked to the compiler as environment variables (`src/versions.rs`).
fn locked_versions() {
    println!("cargo::rerun-if-changed=Cargo.lock");
    let lock = std::fs::read_to_string("Cargo.lock").unwrap_or_default();
    for (package, variable) in [("dora-node-api", "SPSAM_DORA_VERSION"), ("tch", "SPSAM_TCH_VERSION")] {
        let entry = lock.split_once(&format!("name = \"{package}\"\nversion = \""));
        match entry.and_then(|(_, rest)| rest.split_once('"')) {
            Some((version, _)) => println!("cargo::rustc-env={variable}={version}"),
            None => println!("cargo::error=Cargo.lock has no version of {package}"),
        }
    }
}

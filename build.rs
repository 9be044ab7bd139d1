//! Compiles what tch cannot reach of libtorch (`src/tensor/*.cpp`), and sets the rpath.

#[path = "nodes/build.rs"]
mod rpath;

use std::path::PathBuf;

fn main() {
    rpath::main();
    let Some(libtorch) = std::env::var_os("LIBTORCH").map(PathBuf::from) else {
        println!(
            "cargo::error=LIBTORCH is not set; .cargo/config.toml sets it where cargo runs within the project"
        );
        return;
    };
    let sources = ["src/tensor/operation.cpp", "src/tensor/packed.cpp"];
    for source in sources {
        println!("cargo::rerun-if-changed={source}");
    }
    // A file that is missing would make every build begin anew.
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
        // What is in libtorch's headers is not ours to mend.
        .warnings(false)
        .files(sources)
        .compile("spsam_libtorch");
}

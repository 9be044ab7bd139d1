//! Lets the binaries, tests and examples of a package find libtorch at run time by rpath: in the installed folder
//! (`cargo xtask install`) if they are in one, else at the path of the build. `.cargo/config.toml` sets LIBTORCH;
//! all packages with programs name this script in their Cargo.toml.

pub fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if let Ok(libtorch) = std::env::var("LIBTORCH") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/python/torch/lib:{libtorch}/lib");
    }
}

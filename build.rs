//! Owns telling cargo when to build again.

fn main() {
    // `include_dir!` sees a changed file, but not a new one.
    println!("cargo:rerun-if-changed=distros");
    println!("cargo:rerun-if-changed=templates");
}

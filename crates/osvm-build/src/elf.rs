//! Which shared libraries the programs of a tree need, and putting those into it.
//!
//! The dynamic linker's rules as far as they matter here: `DT_RUNPATH` and `DT_RPATH` with
//! `$ORIGIN`, then the folders of the system. Read by crate `object`, which checks every offset.

use crate::error::BuildError;
use crate::packages::Pool;
use crate::tree::{Entry, Kind, Tree};
use object::LittleEndian;
use object::elf::{
    DT_NEEDED, DT_RPATH, DT_RUNPATH, EM_X86_64, FileHeader64, PT_DYNAMIC, PT_INTERP,
};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};
use object::read::{ReadCache, ReadRef, StringTable};
use osvm_image::linux::Source;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

type Header = FileHeader64<LittleEndian>;

/// Where the dynamic linker looks, in this order; then in what the pool has elsewhere.
const FOLDERS: [&str; 6] =
    ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib64", "lib64", "usr/lib", "lib"];

/// Where a library of the pool is put: the folder that Debian's and other linkers look in.
const TARGET: &str = "usr/lib/x86_64-linux-gnu";

/// Longest path of a linker in a program's header, in bytes.
const MAX_INTERP: usize = 256;

/// What an ELF file asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    /// The dynamic linker, an absolute path.
    interp: Option<String>,
    libraries: Vec<String>,
    /// Folders of its own, `$ORIGIN` not replaced yet.
    paths: Vec<String>,
}

/// Adds every library that a program in the tree needs and the pool has. A library that nobody
/// has is an error if a program of the system needs it; a package's own module may be for another
/// C library and never be loaded.
pub(crate) fn close(tree: &mut Tree, pool: &Pool) -> Result<BTreeSet<Source>, BuildError> {
    let mut sources = BTreeSet::new();
    let mut open: Vec<PathBuf> = tree
        .entries()?
        .into_iter()
        .filter(|entry| matches!(entry.kind, Kind::File { .. }))
        .map(|Entry { path, .. }| path)
        .collect();
    while let Some(path) = open.pop() {
        let Some(needs) = read(tree, &path)? else { continue };
        if let Some(interp) = &needs.interp
            && !tree.exists(interp)
            && let Some((_, name)) = interp.rsplit_once('/')
            && let Some(found) = pool.library(&FOLDERS.map(PathBuf::from), name)
        {
            add(tree, Path::new(interp), &found.path)?;
            sources.insert(found.source);
        }
        let own: Vec<PathBuf> = needs.paths.iter().filter_map(|dir| origin(dir, &path)).collect();
        let folders: Vec<PathBuf> = own.into_iter().chain(FOLDERS.map(PathBuf::from)).collect();
        for library in &needs.libraries {
            if folders.iter().any(|dir| tree.exists(dir.join(library))) {
                continue;
            }
            let Some(found) = pool.library(&folders, library) else {
                if path.starts_with("usr") && !path.starts_with("usr/local") {
                    let program = format!("/{}", path.display());
                    return Err(BuildError::NoLibrary { program, library: library.clone() });
                }
                tracing::debug!(program = %path.display(), library, "library left out");
                continue;
            };
            let target = Path::new(TARGET).join(library);
            add(tree, &target, &found.path)?;
            open.push(target);
            sources.insert(found.source);
        }
    }
    Ok(sources)
}

fn add(tree: &mut Tree, target: &Path, from: &Path) -> Result<(), BuildError> {
    let file = File::open(from).map_err(BuildError::io(from))?;
    tree.file(target, true, file).map(drop)
}

/// What the file at `path` asks for; `None` if it is no ELF file for this machine.
fn read(tree: &Tree, path: &Path) -> Result<Option<Needs>, BuildError> {
    let host = tree.path().join(path);
    let mut magic = [0; 4];
    let mut file = File::open(&host).map_err(BuildError::io(&host))?;
    if file.read_exact(&mut magic).is_err() || magic != object::elf::ELFMAG {
        return Ok(None);
    }
    Ok(parse(&ReadCache::new(file)))
}

/// A file that is broken asks for nothing: it can't be run either.
fn parse<'data, R: ReadRef<'data>>(data: R) -> Option<Needs> {
    let header = Header::parse(data).ok()?;
    let endian = header.endian().ok()?;
    if header.e_machine(endian) != EM_X86_64 {
        return None;
    }
    let segments = header.program_headers(endian, data).ok()?;
    let mut needs = Needs::default();
    for segment in segments {
        if segment.p_type(endian) == PT_INTERP {
            let interp = segment.interpreter(endian, data).ok().flatten()?;
            let text = std::str::from_utf8(interp).ok().filter(|text| text.len() <= MAX_INTERP)?;
            needs.interp = Some(text.to_owned());
        }
        if segment.p_type(endian) != PT_DYNAMIC {
            continue;
        }
        let entries = segment.dynamic(endian, data).ok().flatten()?;
        let value = |tag| {
            entries.iter().find(|entry| entry.d_tag(endian) == tag).map(|entry| entry.d_val(endian))
        };
        let address = value(object::elf::DT_STRTAB)?;
        let size = value(object::elf::DT_STRSZ)?;
        let start = segments.iter().find_map(|segment| {
            let offset = address.checked_sub(segment.p_vaddr(endian))?;
            let loaded = segment.p_type(endian) == object::elf::PT_LOAD;
            let start = segment.p_offset(endian).checked_add(offset)?;
            (loaded && offset < segment.p_filesz(endian)).then_some(start)
        })?;
        let strings = StringTable::new(data, start, start.checked_add(size)?);
        for entry in entries {
            let tag = entry.d_tag(endian);
            let Ok(offset) = u32::try_from(entry.d_val(endian)) else { continue };
            let text = || Some(std::str::from_utf8(strings.get(offset).ok()?).ok()?.to_owned());
            if tag == DT_NEEDED {
                // A name with a slash is a path of its own, which nobody else can bring.
                needs.libraries.extend(text().filter(|name| !name.contains('/')));
            } else if tag == DT_RUNPATH || tag == DT_RPATH {
                let paths = text().unwrap_or_default();
                needs.paths.extend(paths.split(':').map(str::to_owned));
            }
        }
    }
    Some(needs)
}

/// A folder of a run path, relative to the tree; `None` if it leaves it.
fn origin(dir: &str, program: &Path) -> Option<PathBuf> {
    let parent = program.parent()?.to_str()?;
    let dir = dir.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", &format!("/{parent}"));
    let mut inside = PathBuf::new();
    for component in Path::new(&dir).components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::ParentDir if !inside.pop() => return None,
            _ => {}
        }
    }
    Some(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_names_its_linker_and_its_libraries() {
        let shell = std::fs::read("/bin/sh").unwrap();
        let needs = parse(shell.as_slice()).unwrap();
        assert!(needs.interp.unwrap().contains("ld-linux"));
        assert!(needs.libraries.iter().any(|name| name.starts_with("libc.so")));
    }

    #[test]
    fn any_cut_or_flip_of_a_program_is_read_without_a_panic() {
        let shell = std::fs::read("/bin/sh").unwrap();
        for place in (0..4096.min(shell.len())).chain((4096..shell.len()).step_by(997)) {
            let mut bytes = shell.clone();
            bytes[place] ^= 0xff;
            let _ = parse(bytes.as_slice());
            let _ = parse(&shell[..place]);
        }
    }

    #[test]
    fn a_run_path_stays_in_the_tree() {
        let program = Path::new("usr/lib/x/y.so");
        let check = |dir, expected: Option<&str>| {
            assert_eq!(origin(dir, program), expected.map(PathBuf::from), "{dir}");
        };
        check("$ORIGIN/../z", Some("usr/lib/z"));
        check("${ORIGIN}", Some("usr/lib/x"));
        check("/opt/lib", Some("opt/lib"));
        check("$ORIGIN/../../../../etc", None);
    }
}

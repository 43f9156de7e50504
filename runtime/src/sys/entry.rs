//! Where the program `keg-runtime` begins: before the C library, and before any relocation.
//!
//! A command that makes a process in a container runs from a read-only mount of its own file (see
//! `self_protect`), which costs a second start. The C library's start alone takes a quarter of
//! a millisecond (it asks the processor for its features some seventy times, and in a virtual machine
//! each answer comes from the hypervisor), so the change of file comes first:
//!
//! ```text
//! kernel ─▶ entry: create, run or exec, and a file that can be written? ─no─▶ C library ─▶ commands::main
//!             └─yes─▶ open_tree · mount_setattr · execveat ─▶ the same again, from the mount
//! ```
//!
//! The C library is told to go on with our own `main`. The standard library's would first learn where
//! the stack ends, from the text of `/proc/self/maps`, and prepare to say something when it overflows.
//!
//! This is a shortcut and no defence: whatever fails here is tried again, and told, by
//! `self_protect`, which alone decides whether to go on.

use std::arch::naked_asm;

/// The entry point of the program; the linker is told so by the build script.
///
/// Registers: `r12` the initial stack, which starts with argc and argv; `r13` what the kernel or the
/// dynamic linker leaves for `_start` in `rdx`; `r14` the mount's descriptor.
///
/// # Safety
/// Only the kernel (or the dynamic linker) may begin here, with the stack of a new program.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keg_runtime_entry() -> ! {
    naked_asm!(
        "mov r12, rsp",
        "mov r13, rdx",
        // Is one of the arguments create, run or exec? One that only looks like it costs a little time.
        "mov rcx, [r12]",
        "lea rbx, [r12 + 8]",
        "2:",
        "sub rcx, 1",
        "jle 9f",
        "add rbx, 8",
        "mov rsi, [rbx]",
        "mov eax, [rsi]",
        "cmp eax, 0x006e7572", // "run\0"
        "je 3f",
        "cmp eax, 0x63657865", // "exec"
        "jne 4f",
        "cmp byte ptr [rsi + 4], 0",
        "je 3f",
        "4:",
        "cmp eax, 0x61657263", // "crea"
        "jne 2b",
        "cmp word ptr [rsi + 4], 0x6574", // "te"
        "jne 2b",
        "cmp byte ptr [rsi + 6], 0",
        "jne 2b",
        // statfs(2): its flags, at offset 80 of 120 bytes, tell of a read-only mount.
        "3:",
        "sub rsp, 128",
        "lea rdi, [rip + {exe}]",
        "mov rsi, rsp",
        "mov eax, {statfs}",
        "syscall",
        "test eax, eax",
        "jnz 9f",
        "test byte ptr [rsp + 80], {st_rdonly}",
        "jnz 9f",
        "mov edi, {at_fdcwd}",
        "lea rsi, [rip + {exe}]",
        "mov edx, {clone_cloexec}",
        "mov eax, {open_tree}",
        "syscall",
        "test eax, eax",
        "js 9f",
        "mov r14d, eax",
        // struct mount_attr: what to set, to clear, propagation, user namespace.
        "mov qword ptr [rsp], {attr_rdonly}",
        "mov qword ptr [rsp + 8], 0",
        "mov qword ptr [rsp + 16], 0",
        "mov qword ptr [rsp + 24], 0",
        "mov edi, r14d",
        "lea rsi, [rip + {empty}]",
        "mov edx, {at_empty_path}",
        "mov r10, rsp",
        "mov r8d, 32",
        "mov eax, {mount_setattr}",
        "syscall",
        "test eax, eax",
        "jnz 8f",
        "mov edi, r14d",
        "lea rsi, [rip + {empty}]",
        "lea rdx, [r12 + 8]",
        "mov rax, [r12]",
        "lea r10, [rdx + 8 * rax + 8]",
        "mov r8d, {at_empty_path}",
        "mov eax, {execveat}",
        "syscall",
        // Still here: nothing may tell of the attempt.
        "8:",
        "mov edi, r14d",
        "mov eax, {close}",
        "syscall",
        // As in the C library's own _start: main, argc, argv, nothing, nothing, rdx, the stack's end.
        "9:",
        "mov rsp, r12",
        "mov r9, r13",
        "xor ebp, ebp",
        "pop rsi",
        "mov rdx, rsp",
        "and rsp, -16",
        "push rax",
        "push rsp",
        "xor r8d, r8d",
        "xor ecx, ecx",
        "lea rdi, [rip + {main}]",
        "call {start_main}",
        "hlt",
        exe = sym EXE,
        empty = sym EMPTY,
        main = sym crate::commands::main,
        start_main = sym __libc_start_main,
        statfs = const libc::SYS_statfs,
        open_tree = const libc::SYS_open_tree,
        mount_setattr = const libc::SYS_mount_setattr,
        execveat = const libc::SYS_execveat,
        close = const libc::SYS_close,
        st_rdonly = const libc::ST_RDONLY,
        at_fdcwd = const libc::AT_FDCWD,
        clone_cloexec = const OPEN_TREE_CLONE | libc::O_CLOEXEC,
        attr_rdonly = const super::mount::attr::RDONLY,
        at_empty_path = const libc::AT_EMPTY_PATH,
    )
}

const OPEN_TREE_CLONE: i32 = 1;

static EXE: [u8; 15] = *b"/proc/self/exe\0";
static EMPTY: [u8; 1] = *b"\0";

unsafe extern "C" {
    /// Makes the C library ready, calls `main` and ends the process with what it returns.
    fn __libc_start_main() -> !;
}

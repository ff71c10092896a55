// Entry points, page tables and descriptor tables: everything that must be right before the first
// line of Rust. Nothing here is built at run time, since every guest instruction is paid for by
// every call.

.set CR0_VALUE, 0x80010033          // PG, WP, NE, ET, MP, PE
.set CR4_VALUE, 0x20                // PAE
.set EFER, 0xc0000080
.set EFER_VALUE, 0x900              // NXE, LME
.set STACK_TOP, 0x180000
.set EMERGENCY_TOP, 0x194000
.set CODE, 0x08
.set DATA, 0x10
.set TSS_SELECTOR, 0x18

// ---------------------------------------------------------------- PVH: 32 bits, no paging

.section .note.pvh, "a", @note
.balign 4
    .long 4                         // length of the owner's name
    .long 8                         // length of the descriptor
    .long 18                        // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad osvm_pvh_entry

.section .text.osvm.entry, "ax", @progbits
.code32
.global osvm_pvh_entry
osvm_pvh_entry:                     // EBX: hvm_start_info
    cld
    lgdt [osvm_gdt_pointer]
    mov eax, CR4_VALUE
    mov cr4, eax
    mov eax, offset osvm_page_tables
    mov cr3, eax
    mov ecx, EFER
    mov eax, EFER_VALUE
    xor edx, edx
    wrmsr
    mov eax, CR0_VALUE
    mov cr0, eax
    mov edi, ebx
    xor esi, esi                    // entered by PVH
    .byte 0xea                      // far jump
    .long osvm_long_mode
    .word CODE

// ---------------------------------------------------------------- Linux: 64 bits, paging on

.code64
.global osvm_linux_entry
osvm_linux_entry:                   // RSI: boot_params
    cli
    cld
    mov ecx, EFER
    rdmsr
    or eax, EFER_VALUE
    wrmsr
    mov eax, offset osvm_page_tables
    mov cr3, rax
    mov eax, CR0_VALUE
    mov cr0, rax
    lgdt [osvm_gdt_pointer]
    mov esp, STACK_TOP
    mov edi, esi
    mov esi, 1                      // entered by the Linux boot protocol
    push CODE
    push offset osvm_long_mode
    retfq

// ---------------------------------------------------------------- both

osvm_long_mode:                     // EDI: the loader's table; ESI: which one
    mov eax, DATA
    mov ss, eax
    mov esp, STACK_TOP
    mov eax, TSS_SELECTOR
    ltr ax
    lidt [osvm_idt_pointer]
    xor ebp, ebp
    call osvm_start
    ud2

// Waits for an interrupt. Interrupts are off before and after.
.global osvm_wait_for_interrupt
osvm_wait_for_interrupt:
    sti
    hlt
    cli
    ret

// Ends the guest: with an empty IDT the page fault at address 0 becomes a triple fault. An `int3`
// would do on hardware, but not every KVM can interpret one.
.global osvm_triple_fault
osvm_triple_fault:
    lidt [osvm_no_idt_pointer]
    xor eax, eax
    mov [rax], eax
    hlt
    jmp osvm_triple_fault

// ---------------------------------------------------------------- exceptions

// One 16-byte slot for each vector, at a fixed address, so that the IDT is a constant.
.section .text.osvm.vectors, "ax", @progbits
.global osvm_vectors
osvm_vectors:
.irp vector, 0, 1, 2, 3, 4, 5, 6, 7
    .balign 16
    push 0
    push \vector
    jmp osvm_exception
.endr
    .balign 16
    push 8                          // #DF has an error code
    jmp osvm_exception
    .balign 16
    push 0
    push 9
    jmp osvm_exception
.irp vector, 10, 11, 12, 13, 14
    .balign 16
    push \vector                    // and so have these
    jmp osvm_exception
.endr
.irp vector, 15, 16
    .balign 16
    push 0
    push \vector
    jmp osvm_exception
.endr
    .balign 16
    push 17
    jmp osvm_exception
.irp vector, 18, 19, 20
    .balign 16
    push 0
    push \vector
    jmp osvm_exception
.endr
    .balign 16
    push 21
    jmp osvm_exception
.irp vector, 22, 23, 24, 25, 26, 27, 28
    .balign 16
    push 0
    push \vector
    jmp osvm_exception
.endr
.irp vector, 29, 30
    .balign 16
    push \vector
    jmp osvm_exception
.endr
    .balign 16
    push 0
    push 31
    jmp osvm_exception

    // Vector 32, the one interrupt. It comes only at the `hlt` above, so it need not return
    // there: it ends that function in its place, with interrupts off. RAX is free at a call, and
    // `iretq` is not needed, which not every KVM can interpret.
    .balign 16
    mov eax, 0xfee000b0             // local APIC: end of interrupt
    mov dword ptr [rax], 0
    mov rsp, [rsp + 24]
    ret

    // Vector 47, spurious: the same without an end of interrupt.
    .org osvm_vectors + 47 * 16
    mov rsp, [rsp + 24]
    ret

osvm_exception:                     // on the emergency stack: vector, error code, RIP, …
    mov rdi, rsp
    cld
    call osvm_fault
    ud2

// ---------------------------------------------------------------- paging

.set PRESENT, 1 << 0
.set WRITE, 1 << 1
.set WRITE_THROUGH, 1 << 3
.set UNCACHED, 1 << 4
.set USED, 1 << 5 | 1 << 6          // accessed and dirty: the processor need not set them
.set LARGE, 1 << 7
.set NO_EXECUTE, 1 << 63
.set TABLE, PRESENT | WRITE | 1 << 5

.set RX, PRESENT | USED
.set R, PRESENT | USED | NO_EXECUTE
.set RW, PRESENT | WRITE | USED | NO_EXECUTE
.set DEVICE, RW | WRITE_THROUGH | UNCACHED | LARGE

.section .rodata.osvm.tables, "a", @progbits
.balign 4096
.global osvm_page_tables
osvm_page_tables:                   // 512 GiB each
    .quad osvm_pdpt + TABLE
    .zero 511 * 8
osvm_pdpt:                          // 1 GiB each
    .quad osvm_directories + TABLE
    .quad osvm_directories + 0x1000 + TABLE
    .quad osvm_directories + 0x2000 + TABLE
    .quad osvm_directories + 0x3000 + TABLE
    .zero 508 * 8
osvm_directories:                   // 2 MiB each
    .quad osvm_low + TABLE
    .quad 0x200000 + RX + LARGE
    .quad 0x400000 + R + LARGE
    .set address, 0x600000
.rept 3 * 512 - 3                   // RAM
    .quad address + RW + LARGE
    .set address, address + 0x200000
.endr
.rept 512                           // 3 to 4 GiB: registers of devices
    .quad address + DEVICE
    .set address, address + 0x200000
.endr
osvm_low:                           // 4 KiB each
    .quad 0
    .set address, 0x1000
.rept 0xff                          // what the loader left
    .quad address + R
    .set address, address + 0x1000
.endr
    .zero 0x10 * 8
    .set address, 0x110000
.rept 0x70                          // stack
    .quad address + RW
    .set address, address + 0x1000
.endr
    .zero 0x10 * 8
    .set address, 0x190000
.rept 4                             // emergency stack
    .quad address + RW
    .set address, address + 0x1000
.endr
    .zero 0x6c * 8

// ---------------------------------------------------------------- descriptor tables

.balign 8
osvm_gdt_pointer:
    .word 5 * 8 - 1
    .quad osvm_gdt
osvm_idt_pointer:
    .word 48 * 16 - 1
    .quad osvm_idt
osvm_no_idt_pointer:
    .word 0
    .quad 0

.balign 16
osvm_idt:
    .set gate, 0x200000
.rept 32                            // exceptions: interrupt gates on the emergency stack
    .quad gate & 0xffff | CODE << 16 | 1 << 32 | 0x8e << 40 | (gate >> 16) << 48
    .quad 0
    .set gate, gate + 16
.endr
    .quad gate & 0xffff | CODE << 16 | 0x8e << 40 | (gate >> 16) << 48
    .quad 0
    .zero 14 * 16
    .set gate, gate + 15 * 16
    .quad gate & 0xffff | CODE << 16 | 0x8e << 40 | (gate >> 16) << 48
    .quad 0

// The processor writes into the GDT (`ltr` marks the TSS busy), so it lies in writable memory.
.section .data.osvm.cpu, "aw", @progbits
.global osvm_tss
osvm_tss:
    .long 0
    .zero 3 * 8                     // stacks of other privilege levels: unused
    .quad 0
    .quad EMERGENCY_TOP             // IST 1
    .zero 6 * 8
    .quad 0
    .word 0
    .word 104                       // no I/O permission map
.balign 16
osvm_gdt:
    .quad 0
    .quad 0x00af9b000000ffff        // 64-bit code, accessed
    .quad 0x00cf93000000ffff        // data, accessed
    .quad 0x0000890000000067 | (0x600000 & 0xffffff) << 16
    .quad 0                         // upper half of the TSS's address

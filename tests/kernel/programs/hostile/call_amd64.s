#include "textflag.h"

// func call(number, first, second, third, goroutine uintptr) int
//
// Clobbers R14, as functions without the internal calling convention may: their caller loads it anew.
TEXT ·call(SB), NOSPLIT, $0-48
	MOVQ number+0(FP), AX
	MOVQ first+8(FP), DI
	MOVQ second+16(FP), SI
	MOVQ third+24(FP), DX
	MOVQ goroutine+32(FP), R14
	SYSCALL
	MOVQ AX, ret+40(FP)
	RET

/* Runs instructions of the time loops without Python, for processors that tests emulate (test_recurrence_compilers.py).

   Reads a file of cases: int64 wide, bytes of memory, then an Instruction whose operands' `data` are offsets into that
   memory (an operand with ring 0 is none), then the memory. Writes the memory of each case as the instruction leaves it
   to standard output. With no file it prints how many levels there are, and the name and the
   panel of the first, the one that runs. */

#include <stdio.h>
#include <stdlib.h>
#include "levels.h"

int main(int count, char **names_of_files) {
    if (count < 2) return printf("%ld %s %ld\n", supported(), levels[0].name, levels[0].panel) < 0;
    FILE *file = fopen(names_of_files[1], "rb");
    if (!file) return 1;
    for (int64_t sizes[2]; fread(sizes, sizeof(*sizes), 2, file) == 2;) {
        Instruction instruction;
        Team team = {0, 0, 0, 0};
        char *memory = aligned_alloc(64, (size_t)sizes[1]);
        if (!memory || fread(&instruction, sizeof(instruction), 1, file) != 1) return 2;
        if (fread(memory, 1, (size_t)sizes[1], file) != (size_t)sizes[1]) return 3;
        for (int k = 0; k < 6; k++)
            if (instruction.operand[k].ring) instruction.operand[k].data += (int64_t)memory;
        levels[0].runners[sizes[0]](&instruction, 1, 0, 1, 1, 0, 1, &team);
        if (fwrite(memory, 1, (size_t)sizes[1], stdout) != (size_t)sizes[1]) return 4;
        free(memory);
    }
    return 0;
}

// What machine/*.py repeats of these files: Python asks for each when it loads the library.

#include "halves.h"

static const struct {
    const char *name;
    long value;
} FACTS[] = {
    {"LANES", LANES},
    {"MOST_BLOCK", MOST_BLOCK},
    {"MOST_WIDTH", MOST_WIDTH},
    {"PROMPT_BLOCK", PROMPT_BLOCK},
    {"Attention", sizeof(Attention)},
#ifdef HAS_TILES
    {"PANEL", PANEL},
    {"Half", sizeof(Half)},
    {"Group", sizeof(Group)},
    {"Step", sizeof(Step)},
#endif
};

// The constant, or the bytes of the struct, of that name; -1: there is none here.
long fact(const char *name)
{
    for (unsigned long i = 0; i < sizeof FACTS / sizeof *FACTS; i++)
        if (!strcmp(FACTS[i].name, name))
            return FACTS[i].value;
    return -1;
}

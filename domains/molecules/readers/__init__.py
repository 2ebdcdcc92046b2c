"""Readers: files of molecules, one format each, and named data sets.

A record is read or skipped; what is skipped is counted and listed with its reason, and the others
are not touched. Files of coordinates (SDF, XYZ, npz) are believed, SMILES are what RDKit makes of
them. If a file has no bonds and `data.bonds` asks for them, they come from distances, and what
cannot have any is left out, counted and listed too.

| molecules                   | SMILES               | coordinates       | bonds from distances  |
|-----------------------------|----------------------|-------------------|-----------------------|
| several fragments, salts    | skipped              | read, "fragments" | left out with a metal |
| formal charges              | read                 | read, not in XYZ  | left out if not given |
| isotopes                    | read, labels dropped | labels dropped    | as without labels     |
| radicals                    | skipped              | read, not stable  | left out              |
| elements without a valency  | read or skipped      | read, not stable  | left out              |
| what RDKit does not accept  | skipped              | read, not valid   | left out              |
| what RDKit cannot embed     | skipped              | -                 | -                     |
| unknown elements, one atom  | skipped              | skipped           | -                     |
| hydrogen only, implicit H   | skipped              | skipped           | -                     |
| two atoms within 0.001 A    | -                    | skipped           | -                     |
| 2-D drawings, NaN           | -                    | skipped           | -                     |

Bonds of a file are believed too, whatever the distances say; `data.bonds aromatic` leaves out what
RDKit does not accept. Where some molecules have no known bonds, those of all are dropped, which is
noted. Molecules with atom types that training had not are not scored, and cannot be given.
"""

"""The data of an objective: what a loader, list or stream gives, held fixed, weighted and put back."""

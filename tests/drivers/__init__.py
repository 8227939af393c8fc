"""The suite that every driver passes, for each of ours."""

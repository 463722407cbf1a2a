package inventory

// Reserve lets tests reserve in a transaction of their own.
var Reserve = (*Service).reserve
